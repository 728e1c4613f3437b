//! The commands that talk to a site: nouns and verbs, printers, progress, completions.
//!
//! [`Command`] and [`Globals`] are parts of the main program's parser; [`run`] does what they say and answers the exit code: 0 for
//! success, 1 for a failure, 2 for a command line that makes no sense.
//!
//! # Where settings come from
//! A flag wins over its environment variable, which wins over the profile that `lockstep login` saved, which wins over the
//! default. What the profile knows of a site (session, trust) is used for that site's URL only.
//!
//! # What goes where
//! Results go to standard output, in the form that `--output` names; everything said about them (progress, totals, warnings, errors)
//! goes to standard error. So a pipe gets the result and nothing else, whatever the form. A pipe that is closed early is a
//! success: who reads on has seen enough.
//!
//! # What people see and programs read
//! Tables have units, rounded numbers and times such as `in 1h 40m`; JSON and YAML are what the service answers, at times with what was
//! looked up besides; CSV has plain numbers and times with their date. What a table cannot hold of a terminal's width it leaves
//! out or breaks, and a pipe gets it whole.
//!
//! # What is left behind
//! A command that asks a site for something on the way (a session, samples for `stats top`) ends it when it ends, on Ctrl-C and
//! SIGTERM too; what a killed one leaves expires by itself. Files are replaced whole, and those with secrets are their owner's alone.

mod commands;
mod failure;
mod globals;
mod json;
mod output;
mod private_file;
mod profile;
mod progress;
mod replica;
mod spark;
mod terminal;
mod times;
mod yaml;

use std::process::ExitCode;

pub use commands::Command;
pub use globals::Globals;
pub use output::Format;

use failure::Failure;

/// Runs a command. `parser` is the whole program's command line: completions are made from it.
///
/// What failed is told on standard error.
pub fn run(command: Command, globals: &Globals, mut parser: clap::Command) -> ExitCode {
    let result = match &command {
        Command::Completions(args) => args.run(&mut parser),
        _ => match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let result = runtime.block_on(commands::run(command, globals));
                // A read of standard input that is still under way must not hold up the exit.
                runtime.shutdown_background();
                result
            }
            Err(error) => Err(error.into()),
        },
    };
    match result {
        Ok(code) => code,
        Err(error) => Failure::from(error).tell(),
    }
}
