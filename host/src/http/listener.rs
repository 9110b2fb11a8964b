//! Listening sockets: made here, or taken over.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use super::HttpError;

/// Opens a listener with the configured backlog; mio's own default would be 128.
///
/// # Errors
/// [`HttpError::Listen`] that names the key and the address.
pub fn listen(
    key: &'static str,
    address: SocketAddr,
    backlog: u32,
) -> Result<TcpListener, HttpError> {
    let open = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // A restart need not wait for the old connections' TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(backlog)
    };
    open().map_err(|source| HttpError::Listen {
        key,
        address,
        source,
    })
}

/// Takes over a listening socket that was passed to this process.
///
/// # Errors
/// [`HttpError::Listen`] that names the key.
pub fn adopt(
    key: &'static str,
    address: SocketAddr,
    listener: std::net::TcpListener,
) -> Result<TcpListener, HttpError> {
    let adopted = listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener));
    adopted.map_err(|source| HttpError::Listen {
        key,
        address,
        source,
    })
}
