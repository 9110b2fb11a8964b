//! Who asks, and how much: API keys, the tenants that they belong to, and each tenant's limits.

mod keys;
mod limits;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use keys::{Digest, mint};
pub use limits::{Limits, Place};

use crate::types::TenantId;
use limits::Tenant;

/// One API key, as the configuration knows it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Whose it is: 1 to 64 of letters, digits, `.`, `_` and `-`. A tenant may have several keys.
    pub tenant: String,
    /// sha256 of the key, in hex: the key itself is nowhere.
    pub sha256: String,
}

/// Why somebody is not let in.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Denied {
    #[error("this needs an API key, sent as \"Authorization: Bearer KEY\"")]
    NoKey,
    #[error("the API key is not known")]
    UnknownKey,
    #[error(
        "this needs the admin token (server.admin_token), sent as \"Authorization: Bearer TOKEN\""
    )]
    NoToken,
    #[error("the admin token is wrong")]
    WrongToken,
    #[error(
        "the admin routes answer under an IP address or localhost, and under a name when server.admin_token is set"
    )]
    Renamed,
    #[error("more than {per_minute} requests in a minute; the next one may come in {wait:?}")]
    Rate { per_minute: u32, wait: Duration },
    #[error("{limit} requests are being answered already, which is the most at a time")]
    Concurrent { limit: u32 },
}

/// A request that was let in: whose it is, and the place that it takes until it is answered.
#[derive(Clone, Debug)]
pub struct Visit {
    pub tenant: TenantId,
    pub place: Place,
}

/// The keys and who they let in.
pub struct Access {
    keys: Vec<(Digest, Arc<Tenant>)>,
    /// Everybody, where there are no keys.
    anyone: Option<Arc<Tenant>>,
    admin: Option<Digest>,
}

impl Access {
    /// From settings that [`check`] has passed; what it would refuse lets nobody in.
    pub fn new(
        keys: &[Key],
        limits: Limits,
        tenants: &BTreeMap<String, Limits>,
        admin: &str,
    ) -> Self {
        Self::build(None, keys, limits, tenants, admin)
    }

    /// The same with other settings. A tenant whose limits stay keeps what it has used up: nobody
    /// gets a fresh minute because somebody else's key was added.
    pub fn renewed(
        &self,
        keys: &[Key],
        limits: Limits,
        tenants: &BTreeMap<String, Limits>,
        admin: &str,
    ) -> Self {
        Self::build(Some(self), keys, limits, tenants, admin)
    }

    fn build(
        before: Option<&Self>,
        keys: &[Key],
        limits: Limits,
        tenants: &BTreeMap<String, Limits>,
        admin: &str,
    ) -> Self {
        let mut known = BTreeMap::new();
        let mut tenant = |name: &str| {
            let limits = tenants.get(name).copied().unwrap_or(limits);
            let make = || {
                let kept = before.and_then(|before| before.tenant(name, limits));
                kept.unwrap_or_else(|| Arc::new(Tenant::new(TenantId::new(name), limits)))
            };
            Arc::clone(known.entry(name.to_owned()).or_insert_with(make))
        };
        let all = keys
            .iter()
            .filter_map(|key| Some((Digest::parse(&key.sha256)?, tenant(&key.tenant))));
        let all: Vec<_> = all.collect();
        let anyone = keys.is_empty();
        Self {
            keys: all,
            anyone: anyone.then(|| tenant(TenantId::default().as_str())),
            admin: (!admin.is_empty()).then(|| Digest::parse(admin).unwrap_or_default()),
        }
    }

    /// The tenant of this name, if these are its limits.
    fn tenant(&self, name: &str, limits: Limits) -> Option<Arc<Tenant>> {
        let mut all = self
            .keys
            .iter()
            .map(|(_, tenant)| tenant)
            .chain(&self.anyone);
        all.find(|tenant| tenant.id().as_str() == name && tenant.limits() == limits)
            .cloned()
    }

    /// Whose key this is. Looks at all of them, so that the time tells nothing.
    ///
    /// # Errors
    /// [`Denied::NoKey`] and [`Denied::UnknownKey`].
    pub fn visitor(&self, authorization: Option<&str>) -> Result<Arc<Tenant>, Denied> {
        if let Some(anyone) = &self.anyone {
            return Ok(Arc::clone(anyone));
        }
        let key = authorization.and_then(keys::bearer).ok_or(Denied::NoKey)?;
        let given = Digest::of(key);
        let mut found = None;
        for (digest, tenant) in &self.keys {
            if digest.same(&given) {
                found = Some(tenant);
            }
        }
        found.cloned().ok_or(Denied::UnknownKey)
    }

    /// Whether the admin routes ask for a token.
    pub fn admin_is_locked(&self) -> bool {
        self.admin.is_some()
    }

    /// Lets the holder of the admin token in. Browsers and scrapers may send it as the password
    /// of HTTP's basic scheme.
    ///
    /// # Errors
    /// [`Denied::NoToken`] and [`Denied::WrongToken`].
    pub fn admin(&self, authorization: Option<&str>) -> Result<(), Denied> {
        let Some(digest) = &self.admin else {
            return Ok(());
        };
        let given = authorization.ok_or(Denied::NoToken)?;
        let password = keys::password(given);
        let token = keys::bearer(given).or(password.as_deref());
        match digest.same(&Digest::of(token.ok_or(Denied::NoToken)?)) {
            true => Ok(()),
            false => Err(Denied::WrongToken),
        }
    }
}

/// One sentence for the first setting that cannot work.
///
/// # Errors
/// A sentence that names key, value and what would be right.
pub fn check(keys: &[Key], tenants: &BTreeMap<String, Limits>, admin: &str) -> Result<(), String> {
    for (at, key) in keys.iter().enumerate() {
        name(&format!("server.keys[{at}].tenant"), &key.tenant)?;
        if Digest::parse(&key.sha256).is_none() {
            return Err(format!(
                "server.keys[{at}].sha256: {} characters, expected the 64 hex digits that \
                 `stent key new` prints",
                key.sha256.chars().count()
            ));
        }
        let twice = keys[..at]
            .iter()
            .position(|other| other.sha256.eq_ignore_ascii_case(&key.sha256));
        if let Some(other) = twice {
            return Err(format!(
                "server.keys[{at}].sha256: the same as server.keys[{other}]; expected a key of \
                 its own for each entry"
            ));
        }
    }
    for tenant in tenants.keys() {
        name("server.tenants", tenant)?;
        let known = keys.iter().any(|key| key.tenant == *tenant)
            || keys.is_empty() && tenant == TenantId::default().as_str();
        if !known {
            return Err(format!(
                "server.tenants.{tenant}: no key of server.keys belongs to this tenant"
            ));
        }
    }
    match admin.is_empty() || Digest::parse(admin).is_some() {
        true => Ok(()),
        false => Err(format!(
            "server.admin_token: {} characters, expected the 64 hex digits that `stent key new \
             --admin` prints",
            admin.chars().count()
        )),
    }
}

fn name(key: &str, tenant: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match (1..=64).contains(&tenant.len()) && tenant.chars().all(allowed) {
        true => Ok(()),
        false => Err(format!(
            "{key}: {tenant:?}, expected 1 to 64 letters, digits, '.', '_' and '-'"
        )),
    }
}

#[cfg(test)]
mod tests;
