//! Commands for a running gateway, through its admin routes.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use reqwest::Method;
use reqwest::blocking::Client;
use reqwest::header::CONTENT_TYPE;
use serde_json::Value;

use super::Error;
use super::table::{Colour, Paint, Table};
use crate::policy::Hook;

/// Which gateway, and how to show what it says.
#[derive(Args, Clone, Debug)]
pub struct Remote {
    /// Address of the gateway's admin routes (server.admin)
    #[arg(long, default_value = "127.0.0.1:8001", value_name = "ADDR")]
    admin: String,
    /// Its token, where it asks for one (server.admin_token)
    #[arg(
        long,
        env = "STENT_ADMIN_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    token: Option<String>,
    /// Print the gateway's answer as it is
    #[arg(long)]
    json: bool,
}

/// A change of one hook.
#[derive(Args, Clone, Debug)]
pub struct Change {
    /// guard, trim, prompt, cache or filter
    #[arg(value_parser = super::hook)]
    hook: Hook,
    #[command(flatten)]
    remote: Remote,
}

/// Another config of one hook.
#[derive(Args, Clone, Debug)]
pub struct Configure {
    /// guard, trim, prompt, cache or filter
    #[arg(value_parser = super::hook)]
    hook: Hook,
    /// A file with a JSON object: the whole new config
    #[arg(long, value_name = "FILE.json")]
    file: PathBuf,
    #[command(flatten)]
    remote: Remote,
}

/// A promoted policy is compiled and tried before the gateway answers.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn list(remote: &Remote, out: &mut dyn Write) -> Result<(), Error> {
    let answer = remote.ask(Method::GET, "/admin/policies", None)?;
    if !remote.json {
        let alarms = remote.ask(Method::GET, "/admin/alarms", None)?;
        for alarm in alarms.as_array().into_iter().flatten() {
            let alarm = alarm.as_str().unwrap_or_default();
            writeln!(out, "{}", Paint::of_stdout().paint(Colour::Red, alarm))?;
        }
    }
    remote.show(&answer, policies, out)
}

pub fn change(change: &Change, what: &str, out: &mut dyn Write) -> Result<(), Error> {
    let Change { hook, remote } = change;
    let answer = remote.ask(
        Method::POST,
        &format!("/admin/policies/{hook}/{what}"),
        None,
    )?;
    if !remote.json {
        let serves = |it: &&Value| {
            it["hook"] == hook.as_str() && (it["state"] == "live" || it["state"] == "builtin")
        };
        let all = answer.as_array().map(Vec::as_slice).unwrap_or_default();
        if let Some(now) = all.iter().find(serves) {
            let (name, version) = (text(now, "name"), text(now, "version"));
            writeln!(out, "the {hook} hook is served by {name} {version} now\n")?;
        }
    }
    remote.show(&answer, policies, out)
}

pub fn configure(configure: &Configure, out: &mut dyn Write) -> Result<(), Error> {
    let Configure { hook, file, remote } = configure;
    let json = std::fs::read(file).map_err(Error::io(file))?;
    let route = format!("/admin/policies/{hook}/config");
    let answer = remote.ask(Method::POST, &route, Some(json))?;
    if remote.json {
        return Ok(writeln!(out, "{answer:#}")?);
    }
    let lasts = text(&answer, "lasts");
    writeln!(out, "the {hook} policy has another config, {lasts}\n")?;
    remote.show(&answer["policies"], policies, out)
}

pub fn history(of: &Change, out: &mut dyn Write) -> Result<(), Error> {
    let Change { hook, remote } = of;
    let route = format!("/admin/policies/{hook}/history");
    let answer = remote.ask(Method::GET, &route, None)?;
    remote.show(&answer, revisions, out)
}

pub fn audit(remote: &Remote, out: &mut dyn Write) -> Result<(), Error> {
    let answer = remote.ask(Method::GET, "/admin/audit", None)?;
    remote.show(&answer, changes, out)
}

impl Remote {
    /// Whether the gateway's answer is wanted as it is.
    pub fn json(&self) -> bool {
        self.json
    }

    /// What the admin route answers; `body` is JSON.
    ///
    /// # Errors
    /// When nobody answers, or not as a gateway does.
    pub fn ask(&self, method: Method, route: &str, body: Option<Vec<u8>>) -> Result<Value, Error> {
        let base = match self.admin.contains("://") {
            true => self.admin.trim_end_matches('/').to_owned(),
            false => format!("http://{}", self.admin),
        };
        let wrong = |problem: String| Error::Admin {
            address: self.admin.clone(),
            problem,
        };
        let client = Client::builder()
            .timeout(PATIENCE)
            .connect_timeout(Duration::from_secs(5))
            .no_proxy()
            .build()
            .map_err(|e| wrong(format!("cannot be asked: {e}")))?;
        let mut asking = client.request(method, format!("{base}{route}"));
        if let Some(token) = &self.token {
            asking = asking.bearer_auth(token);
        }
        if let Some(body) = body {
            asking = asking.header(CONTENT_TYPE, "application/json").body(body);
        }
        let asked = asking.send();
        let response = asked.map_err(|error| match error.is_connect() {
            true => Error::Unreachable {
                address: self.admin.clone(),
            },
            false => wrong(format!("did not answer {route}: {}", cause(&error))),
        })?;
        let status = response.status();
        let strange = || {
            wrong(format!(
                "answered {route} with {status} and no JSON, expected the admin address of a \
                 gateway (server.admin)"
            ))
        };
        let answer: Value = response.json().map_err(|_| strange())?;
        match (status.is_success(), answer["error"]["message"].as_str()) {
            (true, _) => Ok(answer),
            (false, Some(_)) if status.as_u16() == 404 => Err(wrong(format!(
                "knows no {route}, expected the admin address of a gateway (server.admin)"
            ))),
            (false, Some(message)) => Err(wrong(format!("refused: {message}"))),
            (false, None) => Err(strange()),
        }
    }

    fn show(
        &self,
        answer: &Value,
        table: fn(&[Value], &mut dyn Write) -> std::io::Result<()>,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        match answer {
            Value::Array(entries) if !self.json => table(entries, out)?,
            // No list, so no gateway of this version: whoever asked sees what came.
            _ => writeln!(out, "{answer:#}")?,
        }
        Ok(())
    }
}

/// The innermost error: the outer ones repeat the address.
fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner.to_string()
}

fn policies(entries: &[Value], out: &mut dyn Write) -> std::io::Result<()> {
    let mut table = Table::new([
        "HOOK", "STATE", "POLICY", "VERSION", "REVISION", "SINCE", "SHA256", "FILE",
    ]);
    for entry in entries {
        let state = text(entry, "state");
        let colour = match state.as_str() {
            "live" => Colour::Green,
            "builtin" => Colour::Faint,
            "shadow" => Colour::Cyan,
            "rejected" => Colour::Red,
            _ => Colour::Yellow,
        };
        let below = entry["reason"]
            .as_str()
            .map(|reason| match &entry["stage"] {
                Value::String(stage) => format!("{stage}: {reason}"),
                _ => reason.to_owned(),
            });
        let cells = [
            text(entry, "hook"),
            state,
            text(entry, "name"),
            text(entry, "version"),
            text(entry, "revision"),
            text(entry, "generation"),
            short(entry, "sha256"),
            text(entry, "file"),
        ];
        table.row(cells, colour, below);
    }
    table.write(Paint::of_stdout(), out)
}

fn changes(entries: &[Value], out: &mut dyn Write) -> std::io::Result<()> {
    let mut table = Table::new(["WHEN", "WHAT", "HOOK", "BY", "FROM", "TO", "WHY"]);
    for entry in entries {
        let what = text(entry, "what");
        let colour = match what.as_str() {
            "rolled-back" | "removed" => Colour::Yellow,
            "shadowed" | "unshadowed" => Colour::Cyan,
            _ => Colour::Green,
        };
        let cells = [
            moment(entry, "at_ms"),
            what,
            text(entry, "hook"),
            text(entry, "by"),
            short(entry, "from"),
            short(entry, "to"),
            text(entry, "reason"),
        ];
        table.row(cells, colour, None);
    }
    match entries.is_empty() {
        true => writeln!(out, "nothing was changed yet"),
        false => table.write(Paint::of_stdout(), out),
    }
}

fn revisions(entries: &[Value], out: &mut dyn Write) -> std::io::Result<()> {
    let mut table = Table::new([
        "REVISION", "POLICY", "VERSION", "SINCE", "UNTIL", "SHA256", "CONFIG", "FILE",
    ]);
    for entry in entries {
        let replaced = entry["replaced"].as_str();
        let cells = [
            text(entry, "number"),
            text(entry, "name"),
            text(entry, "version"),
            moment(entry, "at_ms"),
            moment(entry, "until_ms"),
            short(entry, "sha256"),
            short(entry, "config_digest"),
            text(entry, "file"),
        ];
        let colour = match replaced {
            Some(_) => Colour::Faint,
            None => Colour::Green,
        };
        table.row(cells, colour, replaced.map(str::to_owned));
    }
    match entries.is_empty() {
        true => writeln!(out, "no policy from the folder has served this hook yet"),
        false => table.write(Paint::of_stdout(), out),
    }
}

/// A point in time as a cell.
fn moment(entry: &Value, field: &str) -> String {
    entry[field].as_u64().map_or("-".into(), |ms| {
        let at = UNIX_EPOCH + Duration::from_millis(ms);
        humantime::format_rfc3339_seconds(at).to_string()
    })
}

/// A field as a cell; "-" for what there is not.
fn text(entry: &Value, field: &str) -> String {
    match &entry[field] {
        Value::String(text) if !text.is_empty() => text.clone(),
        Value::Number(number) if number.as_u64() != Some(0) => number.to_string(),
        _ => "-".into(),
    }
}

/// Enough of a digest to tell it from others.
fn short(entry: &Value, field: &str) -> String {
    text(entry, field).chars().take(12).collect()
}
