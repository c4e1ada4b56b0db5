//! What all commands have in common, the demo, and the deployment.

mod closed_output;
mod compose;
mod configuration;
mod demo;
mod healthcheck;
mod hostile_text;
mod reloading;
