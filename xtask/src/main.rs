//! `cargo xtask`: one subcommand per file of the library.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{
    bench, coverage, demo, equivalence, fuzz, lab, matrix, mutants, oracle, setup, soak, test, tidy,
};

/// Set-up, checks and tests of fw.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building, testing and checking need and what is missing.
    Setup(setup::Arguments),
    /// Show fw at work on a host of its own, with a real dockerd, and take it away again.
    Demo,
    /// Build everything and run all tests; those that need root say so when they cannot run.
    Test(test::Arguments),
    /// Check the rules of the source tree that no linter can.
    Tidy,
    /// Hold the loaded programs against `decide` over millions of random packets and tables.
    Equivalence(equivalence::Arguments),
    /// Look for packets and policy files that break what must hold of every one.
    Fuzz(fuzz::Arguments),
    /// Which lines of fw-common its tests run; fails below 95 %.
    Coverage,
    /// Change fw-common in one place after the other, and see whether a test notices.
    Mutants(mutants::Arguments),
    /// Measure; the figures are of this machine and this moment.
    Bench(bench::Arguments),
    /// Send the same packets at random to two hosts, one with iptables and one with fw, and compare what arrives.
    Oracle(oracle::Arguments),
    /// Who reaches whom on each generation of Docker, without fw and with it, as one table.
    Matrix(matrix::Arguments),
    /// Go on for minutes, to show what must not break.
    #[command(subcommand)]
    Soak(soak::Soak),
    /// Labs: hosts in network namespaces.
    #[command(subcommand)]
    Lab(Lab),
}

#[derive(Subcommand)]
enum Lab {
    /// Remove what is left of labs whose process is gone.
    Clean,
    /// Keep a lab until the end of standard input.
    #[command(hide = true)]
    Hold,
    /// Send what is forbidden, inside a container.
    #[command(hide = true)]
    Speak(soak::Speech),
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Setup(arguments) => setup::run(&arguments),
        Task::Demo => demo::run(),
        Task::Test(arguments) => test::run(&arguments),
        Task::Tidy => tidy::run(),
        Task::Equivalence(arguments) => equivalence::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Coverage => coverage::run(),
        Task::Mutants(arguments) => mutants::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Oracle(arguments) => oracle::command(&arguments),
        Task::Matrix(arguments) => matrix::command(&arguments),
        Task::Soak(what) => soak::run(&what),
        Task::Lab(Lab::Clean) => lab::clean(),
        Task::Lab(Lab::Hold) => lab::hold(),
        Task::Lab(Lab::Speak(speech)) => soak::speak(&speech),
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
