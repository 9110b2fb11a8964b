//! Takes spans in over OTLP, gRPC and HTTP, and shows them in Jaeger's UI and through its query API.
//!
//! Prints its ports as one line of JSON and ends with its standard input, so that it never outlives
//! the test that started it.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Of;
use axum::http::StatusCode;
use axum::routing::post;
use otlp_embedded::proto::collector::trace::v1::ExportTraceServiceRequest;
use otlp_embedded::{
    Config, State, StateRef, TraceService, TraceServiceImpl, TraceServiceServer, ui_app,
};
use prost::Message;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let state = State::new(Config {
        max_length: 1000,
        max_memory_usage: 64 << 20,
    });
    let [ui, grpc, http] = [bind().await?, bind().await?, bind().await?];
    let port = |listener: &TcpListener| listener.local_addr().map(|a| a.port());
    let ports = (port(&ui)?, port(&grpc)?, port(&http)?);
    println!(
        "{}",
        serde_json::json!({ "ui": ports.0, "grpc": ports.1, "http": ports.2 })
    );
    let service = TraceServiceServer::new(TraceServiceImpl::new(state.clone()));
    let grpc = Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(grpc));
    let binary = Router::new()
        .route("/v1/traces", post(take_in))
        .with_state(state.clone());
    tokio::spawn(grpc);
    tokio::spawn(async { axum::serve(http, binary).await });
    tokio::spawn(async { axum::serve(ui, ui_app(state, "/")).await });
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await?;
    Ok(())
}

async fn bind() -> std::io::Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0").await
}

/// OTLP/HTTP with a protobuf body. An empty answer is an `ExportTraceServiceResponse`.
async fn take_in(Of(state): Of<StateRef>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST;
    };
    let service = TraceServiceImpl::new(state);
    match service.export(tonic::Request::new(request)).await {
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
