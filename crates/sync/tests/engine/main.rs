//! The engine in a simulated world: virtual time, seeded chance, stores in memory. No test here
//! waits for a clock.

mod chaos;
mod scenarios;
mod store;
mod world;
