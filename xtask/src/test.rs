//! `cargo xtask test`: builds everything once and runs every test, two test programs at a time, each of them timed.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Deserialize;

use crate::{
    setup::{self, Part},
    workspace,
};

/// What `cargo xtask test` is told.
#[derive(Args)]
pub struct Arguments {
    /// Run only the tests of this package; may be given more than once.
    #[arg(long, short)]
    package: Vec<String>,
    /// Run only this test program (`lib`, `bin` or the name of a file under `tests/`).
    #[arg(long)]
    only: Option<String>,
    /// What follows `--` goes to each test program: names of tests, `--nocapture`, …
    #[arg(last = true)]
    rest: Vec<String>,
}

/// A test program as cargo has built it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Package and part of it, such as `fw-user lib` or `xtask matrix`.
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    pub(crate) package_folder: PathBuf,
}

/// How one test program ended.
struct Outcome {
    name: String,
    passed: bool,
    took: Duration,
    skipped: Vec<String>,
}

/// The line that a test which cannot run prints, with the reason behind it.
const SKIPPED: &str = "SKIPPED:";

/// More labs of one program at a time than this gain nothing: each runs a dockerd.
const MOST_THREADS: usize = 4;

/// So many test programs run at a time. A lab waits more than it works, for Docker and for silences to last: the matrix
/// alone, with two labs on two cores, kept them busy for 40 % of its time.
const AT_A_TIME: usize = 2;

/// Sets up, builds, and runs the tests; an error names the test programs that failed.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut times = Vec::new();
    timed(&mut times, "set-up", || setup::ensure(needed()))?;
    let fw = timed(&mut times, "build", workspace::build_fw)?;
    let programs = timed(&mut times, "build of the tests", || build(&arguments.package))?;
    let programs: Vec<&Program> = programs.iter().filter(|program| arguments.wants(program)).collect();
    let mut outcomes = run_all(&programs, &fw, &arguments.rest)?;
    if arguments.wants_examples() {
        outcomes.push(run_examples(&arguments.package));
    }
    println!("\n{}", table(&times, &outcomes, started.elapsed()));
    all_passed(&outcomes)
}

/// Without root there is no lab, and nothing to install for it.
fn needed() -> &'static [Part] {
    if setup::is_root() {
        return &[Part::Build, Part::Lab];
    }
    println!("test: not root: tests that need a network namespace or load programs will say {SKIPPED}");
    &[Part::Build]
}

impl Arguments {
    fn wants(&self, program: &Program) -> bool {
        self.only.as_ref().is_none_or(|only| program.name.rsplit(' ').next() == Some(only))
    }

    /// Examples in documentation are run when all is run.
    fn wants_examples(&self) -> bool {
        self.only.is_none() && self.rest.is_empty()
    }
}

fn timed<T>(
    times: &mut Vec<(&'static str, Duration)>,
    part: &'static str,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    let result = work();
    times.push((part, started.elapsed()));
    result
}

/// Options that choose `packages`, or all that run on the host.
fn chosen(packages: &[String]) -> Vec<&str> {
    if packages.is_empty() {
        return vec!["--workspace", "--exclude", "fw-ebpf"];
    }
    packages.iter().flat_map(|package| ["--package", package.as_str()]).collect()
}

fn build(packages: &[String]) -> anyhow::Result<Vec<Program>> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--no-run", "--message-format", "json-render-diagnostics"]).args(chosen(packages));
    programs(&workspace::output(&mut cargo)?)
}

/// The test programs named in cargo's messages, by name.
pub(crate) fn programs(messages: &str) -> anyhow::Result<Vec<Program>> {
    #[derive(Deserialize)]
    struct Message {
        reason: String,
        manifest_path: Option<PathBuf>,
        target: Option<Target>,
        profile: Option<Profile>,
        executable: Option<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        kind: Vec<String>,
        name: String,
    }
    #[derive(Deserialize)]
    struct Profile {
        test: bool,
    }

    let mut programs = BTreeMap::new();
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).context("cannot read cargo's message")?;
        let Message { reason, manifest_path, target, profile, executable } = message;
        let tests = reason == "compiler-artifact" && profile.is_some_and(|profile| profile.test);
        let (true, Some(manifest), Some(target), Some(file)) = (tests, manifest_path, target, executable)
        else {
            continue;
        };
        let package_folder = manifest.parent().unwrap_or(Path::new("")).to_owned();
        let package = package_folder.file_name().unwrap_or_default().to_string_lossy();
        let part = match target.kind.first().map(String::as_str) {
            Some("test") => target.name,
            Some(kind) => kind.to_owned(),
            None => continue,
        };
        let name = format!("{package} {part}");
        programs.insert(name.clone(), Program { name, file, package_folder });
    }
    Ok(programs.into_values().collect())
}

/// Runs the test programs, [`AT_A_TIME`] of them, and prints what each had to say when it is done; one alone says it at
/// once.
fn run_all(programs: &[&Program], fw: &Path, rest: &[String]) -> anyhow::Result<Vec<Outcome>> {
    if let [program] = programs {
        println!("\n== {}", program.name);
        return Ok(vec![run_program(program, fw, rest, |line| println!("{line}"))?]);
    }
    let waiting = Mutex::new(programs.iter().enumerate());
    let lane = || {
        let mut outcomes = Vec::new();
        // The lock is let go before the program runs.
        while let Some((at, program)) = { waiting.lock().expect("no lane panics").next() } {
            let mut said = format!("\n== {}\n", program.name);
            let outcome = run_program(program, fw, rest, |line| {
                said.push_str(line);
                said.push('\n');
            });
            print!("{said}");
            outcomes.push((at, outcome?));
        }
        anyhow::Ok(outcomes)
    };
    let mut outcomes = thread::scope(|scope| {
        let lanes: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(lane)).collect();
        let mut outcomes = Vec::new();
        for lane in lanes {
            outcomes.extend(lane.join().map_err(|_| anyhow::anyhow!("a lane of tests panicked"))??);
        }
        anyhow::Ok(outcomes)
    })?;
    outcomes.sort_by_key(|(at, _)| *at);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

/// Runs one test program from its package's folder, as cargo would, and passes on what it prints.
fn run_program(
    program: &Program,
    fw: &Path,
    rest: &[String],
    mut say: impl FnMut(&str),
) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let mut command = Command::new(&program.file);
    // Output of tests that pass is shown too: skipped ones say there why, the matrix shows its table.
    command.arg("--show-output").args(rest).current_dir(&program.package_folder);
    command
        .env("PATH", workspace::search_path())
        .env("FW_BIN", fw)
        .env("CARGO_MANIFEST_DIR", &program.package_folder);
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        command.env("RUST_TEST_THREADS", threads().to_string());
    }
    let running = || format!("cannot run {}", program.file.display());
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(running)?;
    let mut skipped = Vec::new();
    let mut names_again = false;
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufReader::lines) {
        let line = line.with_context(running)?;
        // `--show-output` heads both the output of the tests that passed and a second list of their names.
        names_again = line == "successes:" || names_again && line.starts_with("    ");
        if !names_again {
            say(&line);
        }
        if let Some((_, reason)) = line.split_once(SKIPPED) {
            skipped.push(reason.trim().to_owned());
        }
    }
    let passed = child.wait().with_context(running)?.success();
    Ok(Outcome { name: program.name.clone(), passed, took: started.elapsed(), skipped })
}

fn run_examples(packages: &[String]) -> Outcome {
    println!("\n== examples in documentation");
    let started = Instant::now();
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--quiet", "--doc"]).args(chosen(packages));
    let passed = workspace::run(&mut cargo).is_ok();
    Outcome {
        name: "examples in documentation".to_owned(),
        passed,
        took: started.elapsed(),
        skipped: Vec::new(),
    }
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS)
}

fn table(times: &[(&str, Duration)], outcomes: &[Outcome], total: Duration) -> String {
    let mut lines = vec![format!("{:<34} {:>8}", "part", "seconds")];
    lines.extend(times.iter().map(|(part, took)| format!("{part:<34} {:>8.1}", took.as_secs_f32())));
    for Outcome { name, passed, took, skipped } in outcomes {
        let result = if *passed { "passed" } else { "FAILED" };
        let skips = if skipped.is_empty() { String::new() } else { format!(", {} skipped", skipped.len()) };
        lines.push(format!("{name:<34} {:>8.1}  {result}{skips}", took.as_secs_f32()));
    }
    lines.push(format!("{:<34} {:>8.1}", "total", total.as_secs_f32()));
    for Outcome { name, skipped, .. } in outcomes {
        lines.extend(skipped.iter().map(|reason| format!("{SKIPPED} {name}: {reason}")));
    }
    lines.join("\n")
}

fn all_passed(outcomes: &[Outcome]) -> anyhow::Result<()> {
    if outcomes.is_empty() {
        bail!("no test program has that name");
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.passed);
    let failed: Vec<&str> = failed.map(|outcome| outcome.name.as_str()).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_in_cargos_messages() {
        let artifact = |kind: &str, name: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/fw-user/Cargo.toml","target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{test}}},"executable":"/t/{name}-1"}}"#
            )
        };
        let built = artifact("bin", "fw", false);
        let messages = [
            artifact("test", "sources", true),
            built,
            artifact("lib", "fw_user", true),
            r#"{"reason":"build-finished"}"#.to_owned(),
        ];
        let names: Vec<String> = programs(&messages.join("\n"))
            .expect("messages")
            .into_iter()
            .map(|program| program.name)
            .collect();
        assert_eq!(names, ["fw-user lib", "fw-user sources"]);
        assert!(programs("{").is_err());
    }

    fn outcome(name: &str, passed: bool, skipped: &[&str]) -> Outcome {
        let skipped = skipped.iter().map(ToString::to_string).collect();
        Outcome { name: name.to_owned(), passed, took: Duration::from_millis(1500), skipped }
    }

    #[test]
    fn a_failed_program_is_an_error_that_names_it() {
        assert!(all_passed(&[outcome("a lib", true, &[])]).is_ok());
        let error =
            all_passed(&[outcome("a lib", true, &[]), outcome("b x", false, &[])]).expect_err("one failed");
        assert_eq!(error.to_string(), "failed: b x");
        assert!(all_passed(&[]).is_err());
    }

    #[test]
    fn the_table_tells_times_results_and_skipped_tests() {
        let outcomes = [outcome("a lib", true, &["needs root"]), outcome("b x", false, &[])];
        let text = table(&[("build", Duration::from_secs(2))], &outcomes, Duration::from_secs(5));
        let squeezed: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            squeezed[1..],
            [
                "build 2.0",
                "a lib 1.5 passed, 1 skipped",
                "b x 1.5 FAILED",
                "total 5.0",
                "SKIPPED: a lib: needs root"
            ]
        );
    }
}
