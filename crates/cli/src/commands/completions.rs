//! `lockstep completions`: scripts for shells.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap_complete::Shell;

/// Print a script that completes this program's commands in a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lockstep completions bash > ~/.local/share/bash-completion/completions/lockstep\n  \
    lockstep completions zsh > ~/.zfunc/_lockstep\n  \
    lockstep completions fish > ~/.config/fish/completions/lockstep.fish")]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

impl CompletionsArgs {
    /// Prints the script for the whole program's command line.
    pub(crate) fn run(&self, parser: &mut clap::Command) -> Result<ExitCode> {
        let name = parser.get_name().to_owned();
        // The generator panics when it cannot write; memory takes everything.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, parser, name, &mut script);
        std::io::stdout().write_all(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
