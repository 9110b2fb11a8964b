//! Who may operate the gateway from a browser: pages that this address served, nobody else's.

use axum::extract::Request;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::Error;

/// Lets through what only reads, and what no browser sent. A browser names the page's origin with
/// everything else: it must be ours, so that no other site changes policies behind its visitor's back.
pub async fn same(request: Request, next: Next) -> Response {
    match request.method() {
        &Method::GET | &Method::HEAD => next.run(request).await,
        _ => match check(request.headers()) {
            Ok(()) => next.run(request).await,
            Err(error) => error.into_response(),
        },
    }
}

fn check(headers: &HeaderMap) -> Result<(), Error> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let Some(origin) = text(header::ORIGIN) else {
        return Ok(());
    };
    let host = text(header::HOST).unwrap_or_default();
    if origin.split_once("://").map(|(_, of)| of) == Some(host) {
        return Ok(());
    }
    let found: String = origin.chars().take(200).collect();
    let expected = "this address itself: other sites may not operate the gateway";
    Err(Error::invalid(
        "origin",
        format!("found {found:?}, expected {expected}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(origin: &str, host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, origin.parse().unwrap());
        headers.insert(header::HOST, host.parse().unwrap());
        check(&headers).is_ok()
    }

    #[test]
    fn only_this_address_may_change_something() {
        assert!(check(&HeaderMap::new()).is_ok(), "no browser");
        assert!(sent("http://127.0.0.1:8001", "127.0.0.1:8001"));
        assert!(sent("http://[::1]:8001", "[::1]:8001"));
        assert!(sent("https://localhost", "localhost"));
        assert!(!sent("http://evil.example", "127.0.0.1:8001"));
        assert!(
            !sent("http://127.0.0.1:8000", "127.0.0.1:8001"),
            "the chat page"
        );
        assert!(!sent("null", "127.0.0.1:8001"));
    }
}
