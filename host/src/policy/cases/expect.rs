//! What a case expects, in the words of its file.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::policy::types::Scope;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Expect {
    Kept(Vec<usize>),
    Prompt(String),
    Allow(bool),
    Rewrite(String),
    Reply(String),
    Refuse(String),
    Lookup(String),
    Parts(Vec<String>),
    Store(u64),
    Skip(bool),
    Emitted(String),
    Stopped { emitted: String, reason: String },
}

/// An answer, and what comes with it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub(super) struct Answer {
    pub main: Expect,
    with: With,
}

/// What a case may name as well: scope and freshness of a cache key, where a prompt's answer stops.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct With {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Vec<String>>,
}

impl TryFrom<Map<String, Value>> for Answer {
    type Error = serde_json::Error;

    fn try_from(mut map: Map<String, Value>) -> Result<Self, serde_json::Error> {
        let keys = ["scope", "max_age_ms", "stop"];
        let with: Map<_, _> = keys
            .into_iter()
            .filter_map(|key| map.remove_entry(key))
            .collect();
        Ok(Self {
            main: serde_json::from_value(Value::Object(map))?,
            with: serde_json::from_value(Value::Object(with))?,
        })
    }
}

impl From<Expect> for Answer {
    fn from(main: Expect) -> Self {
        main.with(With::default())
    }
}

impl Expect {
    pub(super) fn with(self, with: With) -> Answer {
        Answer { main: self, with }
    }
}

impl Answer {
    /// Only what the case names.
    pub(super) fn named_by(self, case: &Self) -> Self {
        let With {
            scope,
            max_age_ms,
            stop,
        } = self.with;
        let named = &case.with;
        self.main.with(With {
            scope: scope.filter(|_| named.scope.is_some()),
            max_age_ms: max_age_ms.filter(|_| named.max_age_ms.is_some()),
            stop: stop.filter(|_| named.stop.is_some()),
        })
    }

    pub(super) fn json(&self) -> Value {
        // Texts, numbers and lists always have a JSON form.
        let json = |it: serde_json::Result<Value>| it.unwrap_or_default();
        let mut all = json(serde_json::to_value(&self.main));
        if let (Value::Object(all), Value::Object(with)) =
            (&mut all, json(serde_json::to_value(&self.with)))
        {
            all.extend(with);
        }
        all
    }
}
