//! The two ports: free, held by a running Stent, or by somebody else.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::memory::size;
use super::report::Line;
use crate::http;

const PATIENCE: Duration = Duration::from_secs(3);
/// More of an answer than this is not read.
const MOST: u64 = 8 << 20;

/// How a gateway is asked.
#[derive(Clone, Debug, Default)]
pub struct Way {
    /// It has a certificate (server.tls_cert, server.admin_tls_cert). Whose it is does not matter: it is ours.
    pub tls: bool,
    /// The admin token, where one is known.
    pub token: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Port {
    #[default]
    Free,
    /// A Stent answers there; what it says.
    Stent(String),
    Taken,
    Refused(String),
}

/// Who has the ports, and what a running gateway tells.
#[derive(Clone, Debug, Default)]
pub struct Running {
    pub listen: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub public_port: Port,
    pub admin_port: Port,
    /// The admin routes ask for another token, or for one.
    pub locked_out: bool,
    /// Why /ready says no.
    pub not_ready: Option<String>,
    /// VmLck of the running gateway.
    pub locked: Option<u64>,
    pub resident: Option<u64>,
    pub alarms: u64,
}

impl Way {
    /// To the public routes that nobody needs a key for.
    pub fn public(settings: &http::Settings) -> Self {
        Self {
            tls: !settings.tls_cert.as_os_str().is_empty(),
            token: None,
        }
    }

    fn admin(settings: &http::Settings, token: Option<&str>) -> Self {
        Self {
            tls: !settings.admin_tls_cert.as_os_str().is_empty(),
            token: token.map(str::to_owned),
        }
    }
}

pub fn look(settings: &http::Settings, token: Option<&str>) -> Running {
    let public = Way::public(settings);
    let admin = Way::admin(settings, token);
    let mut public_port = port(settings.listen, &public, "/health", "\"uptime_s\"");
    let admin_port = port(settings.admin, &admin, "/metrics", "stent_");
    if let (Port::Taken, Port::Stent(_)) = (&public_port, &admin_port) {
        // Plain HTTP is not understood there: it speaks TLS.
        public_port = Port::Stent(String::new());
    }
    let locked_out = matches!(&admin_port, Port::Stent(metrics) if metrics.is_empty());
    let mut running = Running {
        locked_out,
        listen: Some(settings.listen),
        admin: Some(settings.admin),
        public_port,
        admin_port,
        ..Running::default()
    };
    if let Port::Stent(_) = running.public_port
        && let Some((status, body)) = ask(settings.listen, &public, "/ready")
        && status != 200
    {
        running.not_ready = Some(body);
    }
    if let Port::Stent(metrics) = &running.admin_port {
        running.locked = value(metrics, "stent_memory_locked_bytes");
        running.resident = value(metrics, "stent_memory_resident_bytes");
        running.alarms = value(metrics, "stent_policy_alarms").unwrap_or(0);
    }
    running
}

impl Running {
    /// A gateway serves here right now.
    pub fn serves(&self) -> bool {
        matches!(self.public_port, Port::Stent(_)) || matches!(self.admin_port, Port::Stent(_))
    }

    pub fn lines(&self) -> Vec<Line> {
        let mut lines = vec![
            port_line(
                "port.listen",
                "server.listen",
                self.listen,
                &self.public_port,
            ),
            port_line("port.admin", "server.admin", self.admin, &self.admin_port),
        ];
        if !self.serves() {
            return lines;
        }
        let memory = match (self.resident, self.locked) {
            (Some(resident), Some(locked)) => {
                format!(", {} resident, {} locked", size(resident), size(locked))
            }
            _ => String::new(),
        };
        lines.push(match &self.not_ready {
            Some(why) => Line::bad(
                "running",
                format!("not ready: {why}{memory}"),
                "see docs/runbook.md, \"not ready\"",
            ),
            None => Line::good("running", format!("serves, and is ready{memory}")),
        });
        if self.locked_out {
            lines.push(Line::warn(
                "running",
                "the admin address asks for its token: memory, lock and alarms were not seen",
                "give the token with --token or STENT_ADMIN_TOKEN",
            ));
        }
        if self.alarms > 0 {
            lines.push(Line::warn(
                "running",
                format!("{} standing troubles of the policies", self.alarms),
                "GET /admin/alarms tells them",
            ));
        }
        lines
    }
}

fn port_line(check: &'static str, key: &str, address: Option<SocketAddr>, port: &Port) -> Line {
    let address = address.map_or_else(String::new, |address| format!("{address} "));
    match port {
        Port::Free => Line::good(check, format!("{address}is free")),
        Port::Stent(_) => Line::good(check, format!("{address}is served by a running Stent")),
        Port::Taken => Line::bad(
            check,
            format!("{address}is taken by another program"),
            format!("end it, or choose another {key}"),
        ),
        Port::Refused(problem) => Line::bad(
            check,
            format!("{address}cannot be had: {problem}"),
            format!("choose an address of this machine for {key}, and a port above 1023"),
        ),
    }
}

fn port(address: SocketAddr, way: &Way, path: &str, mark: &str) -> Port {
    match TcpListener::bind(address) {
        Ok(_) => Port::Free,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            match ask(address, way, path) {
                Some((200, body)) if body.contains(mark) => Port::Stent(body),
                // The admin address asks for a token, which this does not have, or has another one.
                Some((401 | 403, body)) if body.contains("\"error\"") => Port::Stent(String::new()),
                _ => Port::Taken,
            }
        }
        Err(error) => Port::Refused(error.to_string()),
    }
}

/// `GET path`: status and body.
pub fn ask(address: SocketAddr, way: &Way, path: &str) -> Option<(u16, String)> {
    let here = match address.ip() {
        ip if ip.is_unspecified() => {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
        }
        _ => address,
    };
    if way.tls {
        return ask_encrypted(here, way.token.as_deref(), path);
    }
    let mut stream = TcpStream::connect_timeout(&here, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let token = way.token.as_ref();
    let token = token.map_or_else(String::new, |t| format!("Authorization: Bearer {t}\r\n"));
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {here}\r\n{token}Connection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

fn ask_encrypted(address: SocketAddr, token: Option<&str>, path: &str) -> Option<(u16, String)> {
    crate::tls::install();
    let client = reqwest::blocking::Client::builder()
        // The question goes to an address of this machine, where names mean nothing.
        .tls_danger_accept_invalid_certs(true)
        .timeout(PATIENCE)
        .build()
        .ok()?;
    let mut asking = client.get(format!("https://{address}{path}"));
    if let Some(token) = token {
        asking = asking.bearer_auth(token);
    }
    let answer = asking.send().ok()?;
    Some((answer.status().as_u16(), answer.text().ok()?))
}

fn value(metrics: &str, name: &str) -> Option<u64> {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.split(' ')
        .next()?
        .parse::<f64>()
        .ok()
        .map(|v| v as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Level;

    #[test]
    fn a_port_is_free_or_somebody_elses() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = other.accept().unwrap();
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello");
        });
        let way = Way::default();
        assert_eq!(port(address, &way, "/health", "uptime_s"), Port::Taken);
        answering.join().unwrap();
        assert_eq!(port(address, &way, "/health", "uptime_s"), Port::Free);
        let line = port_line("port.listen", "server.listen", Some(address), &Port::Taken);
        assert_eq!(line.level, Level::Bad);
    }

    #[test]
    fn a_running_gateway_is_told_with_its_troubles() {
        let running = Running {
            public_port: Port::Stent("{}".into()),
            admin_port: Port::Stent(String::new()),
            not_ready: Some("slot 1 is stalled".into()),
            alarms: 2,
            ..Running::default()
        };
        let levels: Vec<_> = running.lines().iter().map(|line| line.level).collect();
        assert_eq!(levels, [Level::Good, Level::Good, Level::Bad, Level::Warn]);
    }

    #[test]
    fn metrics_are_read() {
        let text = "# TYPE a gauge\nstent_memory_locked_bytes 4096\nstent_x 1\n";
        assert_eq!(value(text, "stent_memory_locked_bytes"), Some(4096));
        assert_eq!(value(text, "stent_memory"), None);
    }
}
