//! Running it for real: looking at a machine, engines elsewhere, limits, upgrades, faults.

mod chaos;
mod doctor;
mod limits;
mod manager;
mod reload;
mod upgrade;
pub mod upstreams;
