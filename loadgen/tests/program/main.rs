//! The program as its users meet it: what it prints, what it writes, how it ends.

#![allow(unreachable_pub, reason = "modules of a test")]

mod doctor;

use std::process::{Command, Output, Stdio};

fn loadgen(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sparring-loadgen"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    loadgen(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
