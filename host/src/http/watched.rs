//! The bytes of a connection: when a request begins, and what hyper answers by itself.
//!
//! Where a head cannot be read, hyper answers before any route is asked, with a status and nothing
//! else. Here that answer gets the body that every other failure has.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Instant;

use super::connection::Phase;
use crate::error::{Error, Head};

/// A stream that tells when a request begins.
pub(super) struct Watched<S> {
    stream: S,
    phase: watch::Sender<Phase>,
    max_head: usize,
    /// The answer that is sent in place of hyper's.
    instead: Bytes,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, phase: watch::Sender<Phase>, max_head: usize) -> Self {
        Self {
            stream,
            phase,
            max_head,
            instead: Bytes::new(),
        }
    }
}

/// The failure, where these bytes are all of an answer that hyper gave by itself: ours always have
/// a body.
fn refusal(bytes: &[u8], max_head: usize) -> Option<Error> {
    let text = std::str::from_utf8(bytes).ok()?;
    let head = text.strip_suffix("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    let empty = lines.any(|line| line.eq_ignore_ascii_case("content-length: 0"));
    let problem = match status {
        "400" => Head::Malformed,
        "414" => Head::Address,
        "431" => Head::TooLarge { limit: max_head },
        _ => return None,
    };
    empty.then_some(Error::Head(problem))
}

/// The failure as a whole response; the connection ends with it.
fn written(error: &Error) -> Bytes {
    let (status, ..) = error.class();
    // Plain data always has a JSON form.
    let body = serde_json::to_string(&error.wire()).unwrap_or_default();
    let reason = status.canonical_reason().unwrap_or_default();
    format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        status.as_u16(),
        body.len(),
    )
    .into()
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    /// Whether these bytes are to be answered by other ones.
    fn replaces(&mut self, bytes: &[u8]) -> bool {
        let error = refusal(bytes, self.max_head);
        if let Some(error) = &error {
            self.instead = written(error);
        }
        error.is_some()
    }

    /// Sends what stands in for hyper's answer.
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.instead.has_remaining() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.instead))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.instead.advance(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.phase.send_if_modified(|phase| {
                let begins = matches!(phase, Phase::Idle(_));
                if begins {
                    *phase = Phase::Head(Instant::now());
                }
                begins
            });
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        if self.replaces(bytes) {
            // It leaves with the flush that follows.
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        let mut filled = parts.iter().filter(|part| !part.is_empty());
        if let (Some(only), None) = (filled.next(), filled.next())
            && self.replaces(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_answer_of_hypers_own_is_replaced() {
        let told = |text: &str| refusal(text.as_bytes(), 9).map(|error| error.class().0.as_u16());
        let head = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n";
        assert_eq!(told(&format!("{head}content-length: 0\r\n\r\n")), Some(431));
        assert_eq!(told(&format!("{head}content-length: 7\r\n\r\n")), None);
        assert_eq!(told(&format!("{head}content-length: 0\r\n\r\n{{}}")), None);
        assert_eq!(
            told("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"),
            Some(400)
        );
        assert_eq!(
            told("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"),
            None
        );
        assert_eq!(told("data: HTTP/1.1 400\n\n"), None);
    }
}
