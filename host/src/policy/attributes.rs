//! `[policies.attributes]`: what an operator tells policies about a request.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Longest value that a header may give, in bytes; a longer one is left out.
const MAX_VALUE: usize = 256;
/// Headers that tell who somebody is. Policies are never shown a raw identity.
const IDENTITIES: [&str; 5] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
    "x-forwarded-for",
];

/// Attributes by name.
pub type Attributes = BTreeMap<String, Attribute>;

/// Where an attribute's value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a text, or a table such as { header = \"x-plan\" }"
)]
pub enum Attribute {
    /// The same for all requests.
    Fixed(String),
    Header(Header),
}

/// A request's header, which a proxy that the operator trusts has set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub header: String,
}

/// One sentence for the first attribute that cannot be had.
pub(super) fn check(attributes: &Attributes) -> Result<(), String> {
    for (name, attribute) in attributes {
        let Attribute::Header(Header { header }) = attribute else {
            continue;
        };
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if header.is_empty() || !header.bytes().all(allowed) {
            return Err(format!(
                "policies.attributes.{name}: {header:?} is no header's name, expected one such as \
                 \"x-plan\""
            ));
        }
        if IDENTITIES.contains(&header.to_ascii_lowercase().as_str()) {
            return Err(format!(
                "policies.attributes.{name}: {header:?} tells who somebody is, expected a header \
                 that says something about the request"
            ));
        }
    }
    Ok(())
}

/// The attributes of one request, by name.
pub(super) fn read<'a>(
    attributes: &Attributes,
    header: impl Fn(&str) -> Option<&'a str>,
) -> Vec<(String, String)> {
    let value = |attribute: &Attribute| match attribute {
        Attribute::Fixed(value) => Some(value.clone()),
        Attribute::Header(it) => {
            let value = header(&it.header).filter(|value| value.len() <= MAX_VALUE)?;
            Some(value.to_owned())
        }
    };
    let pairs = attributes.iter();
    pairs
        .filter_map(|(name, attribute)| Some((name.clone(), value(attribute)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Attributes, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn values_come_from_the_config_and_from_headers() {
        let attributes = of("region = \"eu\"\nplan = { header = \"x-plan\" }").unwrap();
        assert_eq!(check(&attributes), Ok(()));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let with = |plan: Option<String>| {
            let plan = plan.as_deref();
            read(&attributes, |name| plan.filter(|_| name == "x-plan"))
        };
        assert_eq!(
            with(Some("gold".into())),
            [pair("plan", "gold"), pair("region", "eu")]
        );
        assert_eq!(with(None), [pair("region", "eu")]);
        let long = "x".repeat(MAX_VALUE + 1);
        assert_eq!(with(Some(long)), [pair("region", "eu")]);
    }

    #[test]
    fn mistakes_name_the_attribute() {
        let refused = |text: &str| check(&of(text).unwrap()).unwrap_err();
        let told = refused("plan = { header = \"x plan\" }");
        assert!(
            told.starts_with("policies.attributes.plan: \"x plan\""),
            "{told}"
        );
        let told = refused("who = { header = \"Authorization\" }");
        assert!(told.contains("tells who somebody is"), "{told}");
        let told = of("plan = { head = \"x\" }").unwrap_err().to_string();
        assert!(told.contains("expected a text, or a table"), "{told}");
    }
}
