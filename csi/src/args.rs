//! The command line's words: what may be written, what it means in one line, and which environment variable
//! says the same. This file and `args/` turn words into typed settings together with the configuration file;
//! they open nothing. Settings are made by taking an argument struct apart, so an unused flag does not compile.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::FalseyValueParser;
use clap::{Args as ClapArgs, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub(crate) mod cache;
pub(crate) mod egress;
pub(crate) mod load;
pub(crate) mod place;
pub(crate) mod policy;
pub(crate) mod quota;
pub(crate) mod service;

/// The program's name where kubectl takes it for a plugin.
const PLUGIN: &str = "kubectl-tonnage";

const AFTER_HELP: &str = "\
Examples:
  tonnage pull s3://models/llama       fetch, verify, print the path of the view
  tonnage resolve s3://models/llama    print the revision that pins what is there
  sudo tonnage mount s3://models/llama /mnt/llama
  tonnage cache ls                     what is stored here
  tonnage doctor                       is this machine fit, and what to change
  tonnage egress                       what a cluster's budgets have left, and who used most

`tonnage COMMAND --help` has examples and environment variables,
`tonnage pull --help` the exit codes of all commands.";

/// Stages model weights and datasets from object storage on local disk: verified, stored once, read-only.
#[derive(Debug, Parser)]
#[command(name = "tonnage", version, after_help = AFTER_HELP, max_term_width = 110, propagate_version = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every command understands.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Global {
    /// Configuration file [default: /etc/tonnage/config.toml, if it exists]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "TONNAGE_CONFIG",
        help_heading = "Global options"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Say nothing but results and errors
    #[arg(long, short, global = true, env = "TONNAGE_QUIET", value_parser = FalseyValueParser::new(), help_heading = "Global options")]
    pub(crate) quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Fetch a source, verify it, and print the path of its read-only view
    Pull(Box<load::Pull>),
    /// Fetch a source and mount its view read-only (needs root or a user namespace)
    Mount(Box<load::Mount>),
    /// Unmount what `mount` mounted
    Unmount(load::Unmount),
    /// Print the revision that pins what a source holds now; fetches nothing
    Resolve(Box<load::Resolve>),
    /// Look at the cache and keep it in order
    #[command(subcommand)]
    Cache(cache::Cache),
    /// Show where the time of recent loads went
    Loads(cache::Loads),
    /// Check whether this machine is fit, and say what to change
    Doctor(cache::Doctor),
    /// Write content of the cache as a bundle, for an air gap or a node image
    Export(cache::Export),
    /// Verify a bundle and bring it into the cache
    Import(cache::Import),
    /// Show what a cluster's byte budgets have left, who used most, and what it cost
    Egress(egress::Egress),
    /// Show how much cached content each namespace of a cluster has, and may have
    Quota(quota::Quota),
    /// Ask the rules of egress of a cluster, or of files, without loading anything
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Run the CSI node service (identity and node)
    Node(Box<service::Node>),
    /// Run the CSI controller service (identity and controller)
    Controller(Box<service::Controller>),
    /// Print the custom resource definitions of a cluster, as YAML
    #[command(after_help = "Example:\n  tonnage crds | kubectl apply --server-side -f -")]
    Crds,
    /// Fail while pods of a cluster use volumes of this driver, and name them; the chart asks before an uninstall
    UninstallCheck(service::UninstallCheck),
    /// Print completions for a shell
    Completions(Completions),
}

/// Reads a command line, whose first word is the program: as `kubectl-tonnage`, which `kubectl tonnage …` runs, it is called that
/// in what it says of its usage and in its examples, and nothing else differs.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Args, clap::Error> {
    let words: Vec<OsString> = words.into_iter().collect();
    let program = words.first().map(Path::new);
    let mut command = Args::command();
    if program.and_then(Path::file_stem) == Some(PLUGIN.as_ref()) {
        command = as_plugin(command).bin_name("kubectl tonnage");
    }
    let mut matches = command.try_get_matches_from_mut(words)?;
    Args::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// Examples that can be typed where only the plugin is installed.
fn as_plugin(command: clap::Command) -> clap::Command {
    let help = command.get_after_help().map(ToString::to_string);
    let command = match help {
        Some(help) => command.after_help(in_kubectl(&help)),
        None => command,
    };
    command.mut_subcommands(as_plugin)
}

fn in_kubectl(help: &str) -> String {
    ["  ", "`", "$(", "| ", "sudo "]
        .into_iter()
        .fold(help.to_owned(), |help, before| {
            help.replace(
                &format!("{before}tonnage "),
                &format!("{before}kubectl tonnage "),
            )
        })
}

impl Verb {
    /// Whether it runs until it is stopped and keeps logs rather than talking to a person.
    pub(crate) const fn is_service(&self) -> bool {
        matches!(self, Self::Node(_) | Self::Controller(_))
    }
}

/// `tonnage completions`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  tonnage completions bash > /etc/bash_completion.d/tonnage")]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn as_a_plugin_of_kubectl_its_usage_is_kubectl_s_and_nothing_else_differs() {
        let asked = |program: &str, words: &[&str]| {
            let words = [program].into_iter().chain(words.iter().copied());
            parse(words.map(OsString::from))
        };
        for (program, usage) in [
            (
                "/usr/local/bin/kubectl-tonnage",
                "Usage: kubectl tonnage egress",
            ),
            ("kubectl-tonnage", "Usage: kubectl tonnage egress"),
            ("/usr/local/bin/tonnage", "Usage: tonnage egress"),
        ] {
            let refusal = asked(program, &["egress", "--help"]).unwrap_err();
            let help = refusal.to_string();
            assert!(help.contains(usage), "{help}");
            let args = asked(program, &["egress", "-n", "team-a"]).unwrap();
            assert!(
                matches!(args.verb, Verb::Egress(egress) if egress.namespace.as_deref() == Some("team-a"))
            );
        }
    }

    #[test]
    fn as_a_plugin_its_examples_can_be_typed_too() {
        for (example, typed) in [
            ("\n  tonnage egress", "\n  kubectl tonnage egress"),
            (
                "  tonnage crds | kubectl apply -f -",
                "  kubectl tonnage crds | kubectl apply -f -",
            ),
            ("x | tonnage policy", "x | kubectl tonnage policy"),
            (
                "--revision $(tonnage resolve x)",
                "--revision $(kubectl tonnage resolve x)",
            ),
            ("-n tonnage logs", "-n tonnage logs"),
        ] {
            assert_eq!(in_kubectl(example), typed);
        }
        let help = as_plugin(Args::command());
        let egress = help.find_subcommand("egress").unwrap();
        let examples = egress.get_after_help().unwrap().to_string();
        assert!(
            examples.contains("\n  kubectl tonnage egress --namespace team-a"),
            "{examples}"
        );
        assert!(!examples.contains("\n  tonnage "), "{examples}");
    }

    #[test]
    fn every_command_teaches_by_example() {
        fn check(command: &clap::Command) {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            let has_subcommands = command.get_subcommands().next().is_some();
            assert!(
                has_subcommands || help.contains("Example"),
                "{} has no example",
                command.get_name()
            );
            command.get_subcommands().for_each(check);
        }
        check(&Args::command());
    }

    #[test]
    fn environment_variables_begin_with_the_program_s_name() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                if let Some(name) = argument.get_env() {
                    assert!(name.to_string_lossy().starts_with("TONNAGE_"), "{name:?}");
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&Args::command());
    }
}
