pub mod admin;
pub mod protocol;
pub mod telemetry;
