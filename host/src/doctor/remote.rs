//! What is elsewhere: the trace collector, and a Redis where one is configured. Whatever the answer,
//! a request never waits for them; but who configured them wants to have them.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::report::Line;
use crate::config::Config;
use crate::engine::Kind;

/// Longer is as good as never for a neighbour.
const PATIENCE: Duration = Duration::from_secs(2);

pub fn lines(config: &Config) -> Vec<Line> {
    let mut lines = vec![collector(&config.telemetry.otlp)];
    if config.engine.kind == Kind::Openai {
        let urls = config.engine.upstreams.iter().map(|target| &target.url);
        lines.extend(urls.map(|url| upstream(url)));
    }
    lines.extend(redis_urls(config).iter().map(|(key, url)| redis(key, url)));
    lines
}

fn collector(address: &str) -> Line {
    const CHECK: &str = "collector";
    if address.is_empty() {
        return Line::good(CHECK, "telemetry.otlp is empty: traces are not exported");
    }
    match reach(address, 4317) {
        Ok(_) => Line::good(CHECK, format!("{address} accepts connections")),
        Err(problem) => Line::warn(
            CHECK,
            format!("{address}: {problem}"),
            "start the collector or correct telemetry.otlp; until then traces are lost, requests \
             are not",
        ),
    }
}

fn upstream(url: &str) -> Line {
    const CHECK: &str = "upstream";
    let port = if url.starts_with("https") { 443 } else { 80 };
    match reach(url, port) {
        Ok(_) => Line::good(CHECK, format!("{url} accepts connections")),
        Err(problem) => Line::warn(
            CHECK,
            format!("{url}: {problem}"),
            "start it or correct engine.upstreams; without any of them nothing is answered",
        ),
    }
}

/// Every value of the configuration that is a Redis address, with its key.
fn redis_urls(config: &Config) -> Vec<(String, String)> {
    fn walk(path: &str, value: &toml::Value, found: &mut Vec<(String, String)>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let path = match path {
                        "" => key.clone(),
                        path => format!("{path}.{key}"),
                    };
                    walk(&path, value, found);
                }
            }
            toml::Value::String(text) if text.starts_with("redis") && text.contains("://") => {
                found.push((path.to_owned(), text.clone()));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    if let Ok(table) = toml::Table::try_from(config) {
        walk("", &toml::Value::Table(table), &mut found);
    }
    found
}

fn redis(key: &str, url: &str) -> Line {
    const CHECK: &str = "redis";
    // The address may hold a password.
    let shown = url.rsplit_once('@').map_or(url, |(_, host)| host);
    let asked = reach(url, 6379).and_then(|mut stream| {
        let mut answer = [0; 64];
        stream
            .write_all(b"PING\r\n")
            .and_then(|()| stream.read(&mut answer))
            .map(|n| String::from_utf8_lossy(&answer[..n]).trim().to_owned())
            .map_err(|error| error.to_string())
    });
    let todo = "start Redis or correct the key; until then requests go on without it";
    match asked {
        // A Redis with a password says so, which is an answer too.
        Ok(answer) if answer.starts_with("+PONG") || answer.starts_with("-NOAUTH") => {
            Line::good(CHECK, format!("{key}: {shown} answers"))
        }
        Ok(_) if url.starts_with("rediss") => {
            Line::good(CHECK, format!("{key}: {shown} accepts connections"))
        }
        Ok(answer) => Line::warn(
            CHECK,
            format!("{key}: {shown} answers {answer:?}, expected +PONG"),
            todo,
        ),
        Err(problem) => Line::warn(CHECK, format!("{key}: {shown}: {problem}"), todo),
    }
}

/// Connects to the host and port of a URL.
fn reach(url: &str, port: u16) -> Result<TcpStream, String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let with_port = match host.rsplit_once(':') {
        Some((_, digits)) if digits.parse::<u16>().is_ok() => host.to_owned(),
        _ => format!("{host}:{port}"),
    };
    let mut addresses = with_port.to_socket_addrs().map_err(|e| e.to_string())?;
    let address = addresses.next().ok_or("the name has no address")?;
    let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|e| e.to_string())?;
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(PATIENCE));
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::doctor::report::Level;

    #[test]
    fn a_collector_that_is_not_there_is_a_warning() {
        assert_eq!(collector("").level, Level::Good);
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", open.local_addr().unwrap());
        assert_eq!(collector(&address).level, Level::Good);
        drop(open);
        assert_eq!(collector(&address).level, Level::Warn);
    }

    #[test]
    fn a_redis_is_asked_and_its_password_is_not_shown() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for answer in ["+PONG\r\n", "HTTP/1.1 400 Bad Request\r\n"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = [0; 6];
                stream.read_exact(&mut asked).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let url = format!("redis://user:secret@{address}/0");
        let line = redis("cache.redis", &url);
        assert_eq!(line.level, Level::Good);
        assert!(!format!("{line:?}").contains("secret"), "{line:?}");
        assert_eq!(redis("cache.redis", &url).level, Level::Warn);
        server.join().unwrap();
    }
}
