//! The two pages, out of this binary: the chat for everybody, the console for the operator.
//!
//! Their sources lie in `host/pages` as they are served: there is no build step. A page names its
//! files under the digest of all of them, so that browsers may keep them for ever.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};

use super::App;
use crate::error::Error;

/// Nothing comes from elsewhere, nothing inline runs, and no text becomes markup but through
/// DOMPurify.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types dompurify";

/// A page may be shown again only after asking whether it is still the same.
const ASK_FIRST: &str = "no-cache";
/// What has its digest in its address never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

struct File {
    path: &'static str,
    media: &'static str,
    bytes: &'static [u8],
}

macro_rules! file {
    ($media:expr, $path:literal) => {
        file!($media, $path, concat!("../../pages/", $path))
    };
    ($media:expr, $path:literal, $from:expr) => {
        File {
            path: $path,
            media: $media,
            bytes: include_bytes!($from),
        }
    };
}

const FILES: &[File] = &[
    file!(STYLE, "shared/base.css"),
    file!(SCRIPT, "shared/dom.js"),
    file!(SCRIPT, "shared/theme.js"),
    file!("image/svg+xml", "shared/icon.svg"),
    // The client that everybody else's pages use.
    file!(
        SCRIPT,
        "shared/stent-client.js",
        "../../../deploy/nextjs/stent-client.js"
    ),
    file!(STYLE, "chat/chat.css"),
    file!(SCRIPT, "chat/main.js"),
    file!(SCRIPT, "chat/conversations.js"),
    file!(SCRIPT, "chat/server.js"),
    file!(SCRIPT, "chat/markdown.js"),
    file!(SCRIPT, "chat/view.js"),
    file!(SCRIPT, "chat/words.js"),
    file!(STYLE, "console/console.css"),
    file!(SCRIPT, "console/main.js"),
    file!(SCRIPT, "console/admin.js"),
    file!(SCRIPT, "console/lights.js"),
    file!(SCRIPT, "console/slots.js"),
    file!(SCRIPT, "console/policies.js"),
    file!(SCRIPT, "console/traces.js"),
    file!(SCRIPT, "vendor/marked.esm.js"),
    file!(SCRIPT, "vendor/purify.es.js"),
];

/// The chat at `/`. `trace_url`: where its links to a trace lead; empty: it shows the id.
pub fn chat(trace_url: &str) -> Router<Arc<App>> {
    let page = Page::new(include_str!("../../pages/chat/index.html"), trace_url);
    router(&["/"], page)
}

/// The console at `/` and `/console`.
pub fn console(trace_url: &str) -> Router<Arc<App>> {
    let page = Page::new(include_str!("../../pages/console/index.html"), trace_url);
    router(&["/", "/console"], page)
}

struct Page {
    html: String,
    tag: String,
}

impl Page {
    /// Fills in the two places that a page leaves open.
    fn new(html: &str, trace_url: &str) -> Self {
        let mut quoted = String::new();
        for c in trace_url.chars() {
            match c {
                '&' | '"' | '<' | '>' => {
                    // Writing to a text cannot fail.
                    let _ = write!(quoted, "&#{};", u32::from(c));
                }
                c => quoted.push(c),
            }
        }
        let html = html
            .replace("{digest}", &DIGEST)
            .replace("{trace-url}", &quoted);
        let tag = tag(html.as_bytes());
        Self { html, tag }
    }
}

fn router(at: &[&str], page: Page) -> Router<Arc<App>> {
    let page = Arc::new(page);
    let show = move |headers: HeaderMap| async move {
        let media = "text/html; charset=utf-8";
        answer(&headers, media, &page.tag, ASK_FIRST, page.html.clone())
    };
    let mut router = Router::new().route("/assets/{digest}/{*path}", get(asset));
    for path in at {
        router = router.route(path, get(show.clone()));
    }
    router
}

async fn asset(Path((of, path)): Path<(String, String)>, headers: HeaderMap) -> Response {
    // Files of another build are not these: kept for ever, they would be mixed up.
    let file = FILES.iter().find(|file| file.path == path && of == *DIGEST);
    match file {
        Some(file) => answer(&headers, file.media, &tag(file.bytes), FOR_EVER, file.bytes),
        None => Error::NotFound("file").into_response(),
    }
}

fn answer(
    asked: &HeaderMap,
    media: &'static str,
    tag: &str,
    keep: &'static str,
    body: impl IntoResponse,
) -> Response {
    let known = asked.get_all(header::IF_NONE_MATCH).iter().any(|value| {
        let tags = value.to_str().unwrap_or_default();
        tags.split(',')
            .any(|it| it.trim().trim_start_matches("W/") == tag)
    });
    let mut response = match known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => body.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, media),
        (header::CACHE_CONTROL, keep),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(
        "cross-origin-opener-policy",
        HeaderValue::from_static("same-origin"),
    );
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

/// The digest of all files, as their addresses hold it.
static DIGEST: LazyLock<String> = LazyLock::new(|| {
    let mut all = Sha256::new();
    for file in FILES {
        all.update(file.path);
        all.update(Sha256::digest(file.bytes));
    }
    hex::encode(all.finalize()).chars().take(16).collect()
});

fn tag(bytes: &[u8]) -> String {
    let digest = hex::encode(Sha256::digest(bytes));
    format!("\"{}\"", digest.chars().take(32).collect::<String>())
}
