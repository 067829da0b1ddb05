pub mod protocol;
pub mod telemetry;
