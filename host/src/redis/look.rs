//! A single look at a server, for whoever is not serving.

use std::time::Duration;

use ::redis::{AsyncConnectionConfig, Client};

use super::{Address, Trouble, cmd};

/// Connects, logs in, chooses the database and asks for a sign of life, as serving does.
///
/// # Errors
/// What is in the way; [`Trouble::Refused`] where the server is there and says no.
pub fn look(address: &Address, timeout: Duration) -> Result<(), Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|_| Trouble::Lost)?;
    let asked = async {
        let client = Client::open(address.info().clone())?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        let made = client.get_multiplexed_async_connection_with_config(&config);
        cmd("PING").query_async::<()>(&mut made.await?).await
    };
    match runtime.block_on(async { tokio::time::timeout(timeout, asked).await }) {
        Ok(done) => done.map_err(Trouble::from),
        Err(_) => Err(Trouble::Slow),
    }
}
