<<<<<<< HEAD
pub mod admin;
=======
pub mod cli;
>>>>>>> blackbox
pub mod protocol;
pub mod telemetry;
