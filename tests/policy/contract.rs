//! Released versions of the contract are frozen: policies built against them go on to work.
//!
//! `wit/released/VERSION.wit` is what was released as VERSION. `wit/policy.wit` may grow within a
//! minor version (docs/contract.md tells how), and what it may not do fails here.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use stent::policy::VERSION;
use wit_parser::{Resolve, WorldItem};

use super::guest::wit;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/released")
}

/// What was released stays to the letter: sha256 of each text.
const FROZEN: [(&str, &str); 1] = [(
    "0.1.0",
    "8909a29da9f9324a3eba003c8a29b0bd5b8801fd7c524b89d9d280468b2c7aec",
)];

/// Version and text of every release.
fn released() -> Vec<(String, String)> {
    let mut all: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let version = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (version, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    all.sort();
    all
}

/// `0.1.0` of the text's own `package` line.
fn version(wit: &str) -> &str {
    let line = wit
        .lines()
        .find_map(|l| l.strip_prefix("package stent:policy@"));
    line.expect("a package line").trim_end_matches(';')
}

/// Whether a policy built against `old` may be served by a gateway that speaks `new`: for every
/// world of the old text, what it imports is still offered and what it exports is still enough.
fn compatible(old: &str, new: &str) -> Result<(), String> {
    let mut resolve = Resolve::default();
    // Two packages of one name and version cannot lie side by side.
    let earlier = old.replacen(
        &format!("package stent:policy@{};", version(old)),
        "package stent:policy@0.0.0;",
        1,
    );
    let parse = |resolve: &mut Resolve, name: &str, text: &str| {
        let parsed = resolve.push_str(name, text);
        parsed.map_err(|e| format!("{name}: {e:#}"))
    };
    let before = parse(&mut resolve, "released", &earlier)?;
    let after = parse(&mut resolve, "policy.wit", new)?;
    let worlds = resolve.packages[before].worlds.clone();
    for (name, old_world) in worlds {
        let Some(&new_world) = resolve.packages[after].worlds.get(&name) else {
            return Err(format!("world {name} is gone"));
        };
        let checked = wit_component::semver_check(resolve.clone(), old_world, new_world);
        checked.map_err(|e| format!("world {name}: {e:#}"))?;
        // The check lets a new world ask for fewer exports; a hook that is not asked for any more
        // is a hook that is not served any more.
        let exports = |world| {
            let items = resolve.worlds[world].exports.iter();
            let named = items.filter_map(|(_, item)| match item {
                WorldItem::Interface { id, .. } => resolve.interfaces[*id].name.clone(),
                _ => None,
            });
            named.collect::<Vec<_>>()
        };
        let (had, has) = (exports(old_world), exports(new_world));
        if let Some(lost) = had.iter().find(|export| !has.contains(export)) {
            return Err(format!("world {name} does not export {lost} any more"));
        }
    }
    Ok(())
}

#[test]
fn what_was_released_goes_on_to_work() {
    let now = wit();
    let minor = |version: &str| version.rsplit_once('.').unwrap().0.to_owned();
    let released = released();
    let first = released.iter().find(|(name, _)| name == "0.1.0");
    let (_, first) = first.expect("0.1.0 is released and stays in wit/released");
    assert_eq!(
        version(&now),
        "0.1.0",
        "say in docs/contract.md what is new"
    );
    assert_eq!(&now, first, "0.1.0 is frozen");
    assert_eq!(VERSION, version(&now));
    for (name, text) in released {
        let frozen = FROZEN.iter().find(|(version, _)| *version == name);
        let (_, digest) = frozen.unwrap_or_else(|| panic!("{name} is released: name its digest"));
        let found = hex::encode(Sha256::digest(&text));
        assert_eq!(found, *digest, "wit/released/{name}.wit was edited");
        assert_eq!(version(&text), name, "wit/released/{name}.wit");
        if minor(&name) != minor(version(&now)) {
            // Another minor version is another module of bindings with a text of its own.
            continue;
        }
        if let Err(why) = compatible(&text, &now) {
            panic!("wit/policy.wit breaks policies built for {name}: {why}");
        }
        if name == version(&now) {
            let texts = "wit/policy.wit differs from its release";
            assert_eq!(now, text, "{texts} {name}: give it the next version");
        }
    }
}

#[test]
fn growth_is_compatible() {
    let old = wit();
    compatible(&old, &old).unwrap();
    // A function on a resource that policies only use, a function of the host, a hook.
    let more = old.replace(
        "    streaming: func() -> bool;",
        "    streaming: func() -> bool;\n    tenant: func() -> string;",
    );
    let more = more.replace(
        "  count-tokens: func(text: string) -> u32;",
        "  count-tokens: func(text: string) -> u32;\n  spelled: func(token: u32) -> string;",
    );
    let more = format!(
        "{more}\ninterface ranker {{ rank: func(texts: list<string>) -> u32; }}\n\
         world ranking {{ include base; export ranker; }}"
    );
    assert_ne!(more, old);
    compatible(&old, &more).unwrap();
}

#[test]
fn every_other_change_is_refused() {
    let old = wit();
    let changes = [
        // A field, a case, a parameter, a result; in what policies get and in what they give.
        (
            "    pinned: bool,\n",
            "    pinned: bool,\n    edited: bool,\n",
        ),
        (
            "    keep(list<u64>),",
            "    keep(list<u64>),\n    summarise(u64),",
        ),
        (
            "    error,\n  }\n\n  /// Room",
            "    error,\n    timeout,\n  }\n\n  /// Room",
        ),
        (
            "  declare: func(req: borrow<request>) -> layout;",
            "  declare: func() -> layout;",
        ),
        ("    now-ms: func() -> u64;", "    now-ms: func() -> u32;"),
        // What policies may call is gone.
        ("    granted: func() -> scope;\n", ""),
        ("  log: func(level: level, message: string);\n", ""),
        // What old policies do not have is asked for.
        (
            "  self-test: func() -> result<_, string>;",
            "  self-test: func() -> result<_, string>;\n  close: func();",
        ),
        ("  export guard;", "  export guard;\n  export cache;"),
        // Hooks and worlds are gone.
        ("  export session-trimmer;\n", ""),
        ("world caching {", "world remembering {"),
    ];
    for (from, to) in changes {
        assert!(old.contains(from), "{from:?} stands in wit/policy.wit");
        let new = old.replacen(from, to, 1);
        let why = compatible(&old, &new);
        assert!(why.is_err(), "{from:?} became {to:?}, and nobody minds");
        println!("{}", why.unwrap_err().lines().next().unwrap_or_default());
    }
}
