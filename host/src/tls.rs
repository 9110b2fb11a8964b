//! The process's one crypto provider for TLS: downloads, OTLP over https, upstream engines.

/// Chooses ring. Call it before an HTTP client is built; further calls change nothing.
pub fn install() {
    // It fails only when a provider is installed already, which is this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
