//! Names that a client gives: in the path, behind its question mark, and of its session.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::access::Visit;
use crate::error::Error;
use crate::types::{SessionId, SessionKey, TenantId};

/// The name within a path, refused in the words of this server.
pub struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(_) => Err(Error::invalid(
                "path",
                format!("{} is not UTF-8 behind its percent signs", parts.uri.path()),
            )),
        }
    }
}

/// What stands behind the question mark of an address, refused in the words of this server.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(read) => Ok(Self(read.0)),
            Err(error) => {
                let text = error.body_text();
                let problem = text
                    .rsplit_once("string: ")
                    .map_or(&*text, |(_, told)| told);
                Err(Error::invalid("query", problem))
            }
        }
    }
}

/// The caller's session of the name within the path.
pub struct Session(pub SessionKey);

impl<S: Send + Sync> FromRequestParts<S> for Session {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let Name(id) = Name::from_request_parts(parts, state).await?;
        let visit = parts.extensions.get::<Visit>();
        let visit = visit.ok_or_else(|| Error::Internal("nobody looked at the key".into()))?;
        session_key(&visit.tenant, &id).map(Self)
    }
}

pub fn session_key(tenant: &TenantId, id: &str) -> Result<SessionKey, Error> {
    let session = SessionId::parse(id).map_err(|problem| {
        Error::invalid("session_id", problem.trim_start_matches("session_id: "))
    })?;
    Ok(SessionKey {
        tenant: tenant.clone(),
        session,
    })
}
