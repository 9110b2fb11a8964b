//! What is elsewhere: the trace collector, upstreams, and a Redis where one is configured.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::report::Line;
use crate::cache;
use crate::config::Config;
use crate::engine::{self, Kind};
use crate::redis::{self, Address, Trouble};
use crate::session::{OnFailure, Where};
use crate::types::wording;

/// Longer is as good as never for a neighbour.
const PATIENCE: Duration = Duration::from_secs(2);

pub fn lines(config: &Config) -> Vec<Line> {
    let mut lines = vec![collector(&config.telemetry.otlp)];
    if config.engine.kind == Kind::Openai {
        lines.extend(upstreams(&config.engine));
    }
    let servers = redis_servers(config).into_iter();
    lines.extend(servers.map(|(key, address, needed)| redis(key, address, needed)));
    lines
}

fn collector(address: &str) -> Line {
    const CHECK: &str = "collector";
    if address.is_empty() {
        return Line::good(CHECK, "telemetry.otlp is empty: traces are not exported");
    }
    let shown = wording::without_login(address);
    match reach(address, 4317) {
        Ok(_) => Line::good(CHECK, format!("{shown} accepts connections")),
        Err(problem) => Line::warn(
            CHECK,
            format!("{shown}: {problem}"),
            "start the collector or correct telemetry.otlp; until then traces are lost, requests \
             are not",
        ),
    }
}

/// Asks each upstream what a health check asks: its models, with its key.
fn upstreams(settings: &engine::Settings) -> Vec<Line> {
    const CHECK: &str = "upstream";
    let found = match engine::look_at_upstreams(settings) {
        Ok(found) => found,
        Err(error) => {
            let todo = "correct engine.upstreams: a start would be refused";
            return vec![Line::bad(CHECK, error, todo)];
        }
    };
    let none = found.iter().all(|(_, models)| models.is_err());
    let wanted = settings.upstream.model.as_str();
    let line = |(url, models): (String, Result<Vec<String>, String>)| match models {
        Ok(models) if !wanted.is_empty() && !models.iter().any(|model| model == wanted) => {
            Line::warn(
                CHECK,
                format!("{url}: has no model {wanted:?}, only {}", models.join(", ")),
                "correct engine.upstream.model, or serve it there under this name",
            )
        }
        Ok(models) => Line::good(CHECK, format!("{url}: answers, with {}", models.join(", "))),
        Err(problem) if none => Line::bad(
            CHECK,
            format!("{url}: {problem}"),
            "start it or correct engine.upstreams: without any of them nothing is answered",
        ),
        Err(problem) => Line::warn(
            CHECK,
            format!("{url}: {problem}"),
            "start it, or correct its address and key; until then the others answer",
        ),
    };
    found.into_iter().map(line).collect()
}

/// Each Redis of the configuration, with its key and whether requests fail without it.
fn redis_servers(config: &Config) -> Vec<(&'static str, &Address, bool)> {
    let sessions = &config.sessions;
    let mut servers = Vec::new();
    if let Where::Redis(address) = &sessions.store {
        let needed = sessions.on_store_failure == OnFailure::Refuse;
        servers.push(("sessions.store", address, needed));
    }
    // Without it an answer is a miss.
    if let cache::Store::Redis(address) = &config.cache.store {
        servers.push(("cache.store", address, false));
    }
    servers
}

fn redis(key: &str, address: &Address, needed: bool) -> Line {
    const CHECK: &str = "redis";
    let meanwhile = match needed {
        true => "without it every request is refused",
        false => "until then requests go on without it",
    };
    let Err(trouble) = redis::look(address, PATIENCE) else {
        return Line::good(CHECK, format!("{key}: {address} answers"));
    };
    let found = format!("{key}: {address}: {trouble}");
    match trouble {
        // It gets better by itself.
        Trouble::Refused("LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN") => {
            Line::warn(CHECK, found, "wait until it is ready, or look at its log")
        }
        Trouble::Refused("NOAUTH" | "WRONGPASS" | "authentication failed") => Line::bad(
            CHECK,
            found,
            format!(
                "correct user and password in {key} (redis://USER:PASSWORD@host:port/0): Redis \
                 refuses everything that is asked with these; {meanwhile}"
            ),
        ),
        Trouble::Refused(_) => Line::bad(
            CHECK,
            found,
            format!("look at its log and at what this user may do (ACL LIST); {meanwhile}"),
        ),
        _ if needed => Line::bad(
            CHECK,
            found,
            format!("start it or correct {key}: {meanwhile}"),
        ),
        _ => Line::warn(
            CHECK,
            found,
            format!("start it or correct {key}; {meanwhile}"),
        ),
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
    TcpStream::connect_timeout(&address, PATIENCE).map_err(|e| e.to_string())
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
}
