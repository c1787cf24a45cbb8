//! `sparring-loadgen completions` and `sparring-loadgen man`: what a package installs beside the
//! program. Both are made from the definition of the command line.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::version::VERSION;
use super::{Arguments, printed};

const NAME: &str = "sparring-loadgen";

const COMPLETIONS: &str = "\
Examples:
  sparring-loadgen completions bash > ~/.local/share/bash-completion/completions/sparring-loadgen
  sparring-loadgen completions zsh > ~/.zfunc/_sparring-loadgen      with ~/.zfunc in fpath
  sparring-loadgen completions fish > ~/.config/fish/completions/sparring-loadgen.fish";

const MAN: &str = "\
Examples:
  sparring-loadgen man | man -l -
  sparring-loadgen man --out /usr/local/share/man/man1";

/// A script with which a shell completes commands and flags.
#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS)]
pub(super) struct CompletionsArguments {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl CompletionsArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), NAME, &mut script);
        printed(io::stdout().write_all(&script))?;
        Ok(0)
    }
}

/// The manual page of the program; with --out, also one for each command.
#[derive(Debug, Args)]
#[command(after_help = MAN)]
pub(super) struct ManArguments {
    /// Write the pages to this folder, sparring-loadgen.1 and sparring-loadgen-COMMAND.1, in place
    /// of printing the program's.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

impl ManArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let command = Arguments::command().disable_help_subcommand(true).version(VERSION);
        match &self.out {
            Some(folder) => fs::create_dir_all(folder)
                .and_then(|()| clap_mangen::generate_to(command, folder))
                .with_context(|| format!("cannot write to {}", folder.display()))?,
            None => {
                let mut page = Vec::new();
                Man::new(command).render(&mut page)?;
                printed(io::stdout().write_all(&page))?;
            }
        }
        Ok(0)
    }
}
