//! `keygen` and `sign`: ed25519 (RFC 8032), as `policies.trusted_keys` asks for.
//!
//! A key file holds the 64 hex digits of the secret key and nothing else.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::Args;
use ed25519_dalek::{Signer, SigningKey};

use super::Error;

/// `stent policy sign`.
#[derive(Args, Clone, Debug)]
pub struct Sign {
    /// The policy
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// A key that `stent policy keygen` wrote
    #[arg(long, value_name = "KEYFILE")]
    key: PathBuf,
}

pub fn generate(keyfile: &Path, out: &mut dyn Write) -> Result<(), Error> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)
        .map_err(|e| Error::Failed(format!("no randomness for a key: {e}")))?;
    let key = SigningKey::from_bytes(&secret);
    let mut options = OpenOptions::new();
    let opened = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(keyfile);
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Error::Failed(format!(
            "{} exists already: a key is never overwritten, name another file",
            keyfile.display()
        )),
        _ => Error::io(keyfile)(error),
    })?;
    writeln!(file, "{}", hex::encode(secret))
        .and_then(|()| file.sync_all())
        .map_err(Error::io(keyfile))?;
    writeln!(
        out,
        "{} holds the secret key. For the gateway's configuration:\n",
        keyfile.display()
    )?;
    writeln!(out, "[policies]\ntrusted_keys = [\"{}\"]", public(&key))?;
    Ok(())
}

impl Sign {
    pub fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let key = self.key()?;
        let bytes = fs::read(&self.file).map_err(Error::io(&self.file))?;
        let mut name = self.file.clone().into_os_string();
        name.push(".sig");
        let (sig, half) = (PathBuf::from(&name), {
            name.push(".tmp");
            PathBuf::from(name)
        });
        // Renamed into place: a gateway never reads half a signature.
        fs::write(
            &half,
            format!("{}\n", hex::encode(key.sign(&bytes).to_bytes())),
        )
        .and_then(|()| fs::rename(&half, &sig))
        .map_err(Error::io(&sig))?;
        writeln!(out, "{} signed by {}", self.file.display(), public(&key))?;
        Ok(())
    }

    fn key(&self) -> Result<SigningKey, Error> {
        let text = fs::read_to_string(&self.key).map_err(Error::io(&self.key))?;
        let mode = fs::metadata(&self.key)
            .map_err(Error::io(&self.key))?
            .mode()
            & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::Failed(format!(
                "{} has mode {mode:03o}, expected 600: others could sign with it",
                self.key.display()
            )));
        }
        let mut secret = [0; 32];
        hex::decode_to_slice(text.trim(), &mut secret).map_err(|_| {
            Error::Failed(format!(
                "{} does not hold 64 hex digits, expected a key that `stent policy keygen` wrote",
                self.key.display()
            ))
        })?;
        Ok(SigningKey::from_bytes(&secret))
    }
}

fn public(key: &SigningKey) -> String {
    hex::encode(key.verifying_key().to_bytes())
}
