//! A web server that misbehaves on demand.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How one request is answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub body: Vec<u8>,
    pub etag: Option<&'static str>,
    pub ranges: bool,
    pub status: u16,
    /// Bytes of the body after which the connection is cut.
    pub cut: Option<usize>,
    /// Keeps the connection open, silent, for this long before it is cut.
    pub stall: Duration,
}

impl Answer {
    pub fn whole(body: &[u8]) -> Self {
        Self {
            body: body.to_vec(),
            etag: Some("\"one\""),
            ranges: true,
            status: 200,
            cut: None,
            stall: Duration::ZERO,
        }
    }

    pub fn cut(self, after: usize) -> Self {
        Self {
            cut: Some(after),
            ..self
        }
    }
}

pub struct Server {
    address: SocketAddr,
    /// The `Range` of each request so far.
    ranges: Arc<Mutex<Vec<Option<String>>>>,
}

impl Server {
    /// Answers the first request with the first answer, and so on; the last one stays.
    pub fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ranges = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&ranges);
        let mut answers: VecDeque<Answer> = answers.into_iter().collect();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let next = match answers.len() {
                    1 => answers[0].clone(),
                    _ => answers.pop_front().unwrap(),
                };
                // A client that goes away is what some tests are about.
                let _ = serve(stream, &next, &seen);
            }
        });
        Self { address, ranges }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn ranges(&self) -> Vec<Option<String>> {
        self.ranges.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    answer: &Answer,
    seen: &Mutex<Vec<Option<String>>>,
) -> std::io::Result<()> {
    let (mut range, mut if_range) = (None, None);
    for line in BufReader::new(&stream).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(": ") else {
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => range = Some(value.to_owned()),
            "if-range" => if_range = Some(value.to_owned()),
            _ => {}
        }
    }
    seen.lock().unwrap().push(range.clone());
    let total = answer.body.len();
    let start = range
        .filter(|_| answer.ranges && if_range.as_deref() == answer.etag)
        .and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
    let mut head = match (answer.status, start) {
        (200, Some(start)) if start >= total => {
            format!("HTTP/1.1 416 Range\r\nContent-Range: bytes */{total}\r\nContent-Length: 0\r\n")
        }
        (200, Some(start)) => format!(
            "HTTP/1.1 206 Part\r\nContent-Range: bytes {start}-{}/{total}\r\nContent-Length: {}\r\n",
            total - 1,
            total - start
        ),
        (status, _) => format!("HTTP/1.1 {status} Answer\r\nContent-Length: {total}\r\n"),
    };
    if let Some(etag) = answer.etag {
        head += &format!("ETag: {etag}\r\n");
    }
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
    let rest = answer.body.get(start.unwrap_or(0)..).unwrap_or_default();
    stream.write_all(&rest[..answer.cut.unwrap_or(rest.len()).min(rest.len())])?;
    std::thread::sleep(answer.stall);
    Ok(())
}
