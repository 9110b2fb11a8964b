//! Who may come in: keys and limits of the public routes, the token of the admin routes.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::answering::refused;
use super::{App, observe};
use crate::access::{Denied, Place, Visit};
use crate::error::Error;
use crate::trace::spans;

/// Routes for everybody: balancers, generators of clients and who opens the chat page have no key.
pub const OPEN: [&str; 5] = [
    "/health",
    "/ready",
    "/openapi.json",
    "/",
    "/assets/{digest}/{*path}",
];

/// Routes that count against a tenant's limits: the ones that give answers.
pub const ANSWERS: [&str; 3] = ["/chat/stream", "/chat", "/v1/chat/completions"];

/// The pattern of the route that a request matched; empty where it matched none.
pub fn route(request: &Request) -> &str {
    let path = request.extensions().get::<MatchedPath>();
    path.map_or("", MatchedPath::as_str)
}

/// The route of a request for an answer.
pub fn answers(request: &Request) -> Option<&'static str> {
    let route = route(request);
    let found = ANSWERS.into_iter().find(|&answers| answers == route);
    found.filter(|_| request.method() == Method::POST)
}

/// Finds the tenant and puts its [`Visit`] into the request, before any of the body is read.
pub async fn public(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    if OPEN.contains(&route(&request)) {
        return next.run(request).await;
    }
    let answers = answers(&request);
    let visitor = app.access.load().visitor(authorization(request.headers()));
    let visit = visitor.and_then(|tenant| match answers {
        Some(_) => tenant.enter(),
        None => Ok(Visit {
            tenant: tenant.id().clone(),
            place: Place::default(),
        }),
    });
    match visit {
        Ok(visit) => {
            request.extensions_mut().insert(visit);
            next.run(request).await
        }
        Err(denied) => match answers {
            Some(route) => turned_away(&app, route, request.headers(), denied.into()),
            None => Error::from(denied).into_response(),
        },
    }
}

/// A request for an answer that was not let in has its span and its count all the same.
fn turned_away(app: &App, route: &'static str, headers: &HeaderMap, error: Error) -> Response {
    let (span, arrival) = observe::arrive(app, "POST", route, headers);
    refused(app, route, &span, &error, &arrival);
    let mut response = error.into_response();
    spans::http_status(&span, response.status().as_u16());
    arrival.name(&mut response);
    observe::until_taken(response, move |_| drop(span))
}

/// The console's own files, which tell nothing: the page asks for the token that its data needs.
const CONSOLE: [&str; 3] = ["/", "/console", "/assets/{digest}/{*path}"];

/// Asks for the admin token. Where none is set the address is a loopback one, and the browser on
/// the same machine is the way in: a name that somebody made to point here (DNS rebinding) is
/// turned away, because under it a page of theirs could read what this one answers.
pub async fn admin(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let open = CONSOLE.contains(&route(&request));
    let headers = request.headers();
    let access = app.access.load_full();
    let let_in = match open {
        true => Ok(()),
        false => access.admin(authorization(headers)),
    };
    let checked = let_in.and_then(|()| {
        let named = text(headers, header::HOST.as_str()).is_some_and(|host| !is_local(host));
        match named && !access.admin_is_locked() {
            true => Err(Denied::Renamed),
            false => Ok(()),
        }
    });
    // A page that asks for the token itself does not want the browser to ask for it as well.
    let asks_itself = headers.contains_key("x-requested-with");
    match checked {
        Ok(()) => next.run(request).await,
        Err(denied) => {
            let mut response = Error::from(denied).into_response();
            if asks_itself {
                response.headers_mut().remove(header::WWW_AUTHENTICATE);
            }
            response
        }
    }
}

fn authorization(headers: &HeaderMap) -> Option<&str> {
    text(headers, header::AUTHORIZATION.as_str())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `localhost`, or an address: only a name can be made to point here.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn names_are_not_local_and_addresses_are() {
        for local in [
            "localhost:8001",
            "LOCALHOST",
            "127.0.0.1:8001",
            "[::1]:8001",
            "::1",
        ] {
            assert_eq!(is_local(local), local != "::1", "{local}");
        }
        for name in [
            "evil.example:8001",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
        ] {
            assert!(!is_local(name), "{name}");
        }
    }
}
