//! The engine in a simulated world: virtual time, seeded chance, stores in memory. No test here
//! waits for a clock.

mod alone;
mod breaches;
mod chaos;
mod fetching;
mod jj;
mod lost;
mod reconciling;
mod roles;
mod scenarios;
mod steps;
mod store;
mod wire;
mod world;
