//! The run: every load, on one server and then on the other, in turns.

use std::fs;

use super::client::{Client, Question};
use super::figures::{Figure, Samples};
use super::loads::{Findings, Load, Round, Scale, Server};
use super::progress::Progress;
use super::report::{Column, Report};
use super::texts::Texts;
use super::{Drive, Error, Memory, memory};

/// More than this many busy processes before the first request spoil the figures.
const QUIET: f64 = 0.5;

/// Measures, prints the table, writes the JSON.
pub async fn drive(drive: &Drive) -> Result<(), Error> {
    let scale = scale(drive);
    let mut seed = drive.seed.unwrap_or_else(clock);
    // Smaller seeds are easier to read back and type.
    seed &= 0xFFFF_FFFF;
    let mut notes = Vec::new();
    notes.extend(noise());
    let mut servers = vec![greet(&drive.url, drive, drive.memory, seed).await?];
    if let Some(peer) = &drive.peer {
        servers.push(greet(peer, drive, Memory::History, seed).await?);
    }
    notes.extend(uneven(&servers));

    let steps = steps(drive, &scale, servers.len());
    let progress = Progress::new(steps.len());
    let mut failed = 0;
    for step in &steps {
        let greeted = &mut servers[step.server];
        progress.begin(format!(
            "{}: {}",
            step.load.name(),
            greeted.server.client.base()
        ));
        let round = Round {
            server: &greeted.server,
            scale: &scale,
            seed,
            rep: step.rep,
        };
        match step.load.measure(&round).await {
            Ok(found) => note(found, greeted, step.load, &mut notes),
            Err(error) => {
                failed += 1;
                let at = greeted.server.client.base();
                let line = format!("{}: {at} failed: {error}", step.load.name());
                progress.say(&line);
                notes.push(line);
            }
        }
        progress.end();
    }
    progress.finish();

    let pids = [drive.pid, drive.peer_pid];
    let columns = servers.into_iter().zip(pids).map(|(greeted, pid)| {
        let mut samples = greeted.samples;
        if let Some(held) = pid.and_then(memory::of) {
            samples.insert(Figure::Resident, vec![held.resident]);
            samples.insert(Figure::Locked, vec![held.locked]);
        }
        Column {
            url: greeted.server.client.base().to_owned(),
            model: greeted.server.client.model().to_owned(),
            samples,
        }
    });
    let report = Report {
        columns: columns.collect(),
        seed,
        quick: drive.quick,
        notes,
    };
    print!("{report}");
    if let Some(path) = &drive.json {
        let text = format!("{:#}\n", report.json());
        fs::write(path, text).map_err(|source| Error::Write {
            path: path.clone(),
            source,
        })?;
    }
    let (missed, all) = report.missed();
    match (failed, missed) {
        (0, missed) if missed > 0 && drive.check => Err(Error::Missed { missed, all }),
        (0, _) => Ok(()),
        (failed, _) => Err(Error::Failed {
            failed,
            all: steps.len(),
        }),
    }
}

/// A server that answered its first question.
struct Greeted {
    server: Server,
    /// Tokens that it counts in a prompt which both get.
    prompt_tokens: Option<u32>,
    /// What it answered to it.
    text: String,
    samples: Samples,
}

/// One measurement to be made.
struct Step {
    load: Load,
    rep: u32,
    server: usize,
}

fn scale(drive: &Drive) -> Scale {
    let scale = match drive.quick {
        true => Scale::quick(),
        false => Scale::full(),
    };
    Scale {
        reps: drive.reps.unwrap_or(scale.reps),
        ..scale
    }
}

/// Load by load, the servers in turns; who begins changes with each repetition.
fn steps(drive: &Drive, scale: &Scale, servers: usize) -> Vec<Step> {
    let wanted = |load: &Load| drive.only.is_empty() || drive.only.contains(load);
    let mut steps = Vec::new();
    for load in Load::ALL.into_iter().filter(wanted) {
        for rep in 0..load.reps(scale) {
            steps.extend((0..servers).map(|at| Step {
                load,
                rep,
                server: (at + rep as usize) % servers,
            }));
        }
    }
    steps
}

/// Connects and warms up: the first request after a start also pays for page faults.
async fn greet(url: &str, drive: &Drive, memory: Memory, seed: u64) -> Result<Greeted, Error> {
    let address = |problem| Error::Address {
        url: url.to_owned(),
        problem,
    };
    if url.starts_with("https://") {
        return Err(address("https is not supported"));
    }
    if !url.starts_with("http://") {
        return Err(address("not a URL"));
    }
    if url.trim_end_matches('/').ends_with("/v1") {
        return Err(address("ends in /v1, which is added by itself"));
    }
    let unfit = |source| Error::Unfit {
        url: url.to_owned(),
        source,
    };
    let client = Client::connect(url, drive.api_key.as_deref())
        .await
        .map_err(unfit)?;
    let question = Question::new(Texts::new(seed, u64::MAX).question(20), 16);
    let answer = client.ask(&question).await.map_err(unfit)?;
    Ok(Greeted {
        server: Server { client, memory },
        prompt_tokens: answer.usage.map(|usage| usage.prompt_tokens),
        text: answer.text,
        samples: Samples::new(),
    })
}

fn note(found: Findings, greeted: &mut Greeted, load: Load, notes: &mut Vec<String>) {
    for (figure, value) in found.samples {
        greeted.samples.entry(figure).or_default().push(value);
    }
    for line in found.notes {
        notes.push(format!(
            "{}: {}: {line}",
            load.name(),
            greeted.server.client.base()
        ));
    }
}

/// What makes the comparison less than even.
fn uneven(servers: &[Greeted]) -> Vec<String> {
    let mut notes = Vec::new();
    for greeted in servers
        .iter()
        .filter(|greeted| greeted.prompt_tokens.is_none())
    {
        let at = greeted.server.client.base();
        notes.push(format!(
            "{at} sends no usage: its tokens are counted by pieces of text"
        ));
    }
    if let [first, second] = servers {
        if let (Some(one), Some(other)) = (first.prompt_tokens, second.prompt_tokens)
            && one != other
        {
            notes.push(format!(
                "the same prompt has {one} tokens here and {other} at the peer"
            ));
        }
        if first.text.trim() != second.text.trim() {
            notes.push("the two servers answer the same question differently".to_owned());
        }
    }
    notes
}

fn noise() -> Option<String> {
    let load = memory::load_average().filter(|load| *load > QUIET)?;
    Some(format!(
        "the machine was not quiet before the first request: load {load:.1}"
    ))
}

fn clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}
