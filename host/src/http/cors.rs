//! Which pages of other origins may call the routes.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method};
use tower::Service;
use tower_http::cors::CorsLayer;

use super::HttpError;

/// Routes that pages of other origins may call; which origins can change while they are served.
#[derive(Clone)]
pub struct Pages {
    /// Without any rule.
    routes: Router,
    current: Arc<ArcSwap<Router>>,
}

impl Pages {
    /// # Errors
    /// [`HttpError::Origin`] for a text that is no origin.
    pub fn new(routes: Router, origins: &[String]) -> Result<Self, HttpError> {
        let current = cors(routes.clone(), origins)?;
        Ok(Self {
            routes,
            current: Arc::new(ArcSwap::from_pointee(current)),
        })
    }

    /// Other origins, from the next request on.
    ///
    /// # Errors
    /// As [`Pages::new`]; nothing changes then.
    pub fn allow(&self, origins: &[String]) -> Result<(), HttpError> {
        let changed = cors(self.routes.clone(), origins)?;
        self.current.store(Arc::new(changed));
        Ok(())
    }

    pub fn router(&self) -> Router {
        let current = Arc::clone(&self.current);
        // A connection that is kept has the rules of each request's own time.
        Router::new().fallback(move |request: Request| {
            let mut routes = Router::clone(&current.load());
            async move { routes.call(request).await }
        })
    }
}

fn cors(router: Router, origins: &[String]) -> Result<Router, HttpError> {
    if origins.is_empty() {
        return Ok(router);
    }
    let origins = self::origins(origins)?;
    let allowed = [
        "content-type",
        "authorization",
        "accept",
        "traceparent",
        "x-request-id",
        "last-event-id",
        "idempotency-key",
    ];
    let exposed = [
        "x-vercel-ai-ui-message-stream",
        "traceresponse",
        "x-request-id",
        "retry-after",
    ];
    Ok(router.layer(
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST, Method::DELETE])
            .allow_headers(allowed.map(HeaderName::from_static))
            .expose_headers(exposed.map(HeaderName::from_static)),
    ))
}

/// Scheme, host and port; a browser sends no path, so that one with a path would never match.
pub(super) fn origins(texts: &[String]) -> Result<Vec<HeaderValue>, HttpError> {
    let origin = |text: &String| {
        let host = ["http://", "https://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme));
        let whole = host.is_some_and(|h| !h.is_empty() && !h.contains(['/', '?', '#', '*', ' ']));
        let value = HeaderValue::from_str(text).ok().filter(|_| whole);
        value.ok_or_else(|| HttpError::Origin(text.clone()))
    };
    texts.iter().map(origin).collect()
}
