//! `cargo xtask coverage`: which lines of fw-common its tests run, and which they do not.
//!
//! The compiler's own instrumentation, read by the LLVM tools of the same toolchain. Only tests outside the source
//! count, so that no line of a test is among those that are measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::setup::{self, Part};
use crate::{test, workspace};

/// Per cent of the lines below which it fails.
const LEAST: usize = 95;

/// For each line of a file, how often it was run.
type Lines = BTreeMap<usize, u64>;

/// Measures, prints a line for each file, and fails below [`LEAST`].
pub fn run() -> Result<()> {
    setup::ensure(&[Part::Coverage])?;
    let output = workspace::root().join("target/coverage");
    let profiles = output.join("profiles");
    fs::remove_dir_all(&profiles).ok();
    let programs = build(&output)?;
    for program in &programs {
        println!("coverage: {}", program.name);
        let mut command = workspace::command(&program.file.display().to_string());
        command.current_dir(&program.package_folder).arg("--quiet");
        workspace::run(command.env("LLVM_PROFILE_FILE", profiles.join("%p.profraw")))?;
    }
    let files = read(&programs, &profiles)?;
    ensure!(!files.is_empty(), "the tests ran no line of fw-common: the build is not instrumented");
    println!("\n{}", table(&files));
    let all = files.values().flatten().map(|(line, count)| (*line, *count));
    let (covered, count) = covered(all);
    if covered * 100 < count * LEAST {
        bail!(
            "{covered} of {count} lines of fw-common are run by its tests, fewer than {LEAST} %: test the lines named above"
        );
    }
    Ok(())
}

/// The test programs of fw-common, instrumented.
fn build(output: &Path) -> Result<Vec<test::Program>> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--no-run", "--message-format", "json-render-diagnostics", "--package", "fw-common"]);
    cargo.args(["--test", "*", "--target", &workspace::host()?, "--target-dir"]).arg(output);
    cargo.env("RUSTFLAGS", "-Cinstrument-coverage");
    test::programs(&workspace::output(&mut cargo)?)
}

/// What the profiles say of the files of fw-common.
fn read(programs: &[test::Program], profiles: &Path) -> Result<BTreeMap<String, Lines>> {
    let merged = profiles.join("all.profdata");
    let raw = fs::read_dir(profiles).with_context(|| format!("no profile in {}", profiles.display()))?;
    let raw: Vec<PathBuf> = raw.filter_map(|entry| Some(entry.ok()?.path())).collect();
    workspace::run(setup::llvm("llvm-profdata")?.args(["merge", "--sparse", "-o"]).arg(&merged).args(raw))?;
    let mut command = setup::llvm("llvm-cov")?;
    command.args(["export", "--format=lcov", "--instr-profile"]).arg(&merged);
    for program in programs {
        command.arg("--object").arg(&program.file);
    }
    Ok(lines(&workspace::output(command.arg("--sources").arg(workspace::root().join("fw-common/src")))?))
}

/// The lines of an lcov report, by file below fw-common.
fn lines(report: &str) -> BTreeMap<String, Lines> {
    let mut files = BTreeMap::<String, Lines>::new();
    let mut file = String::new();
    for line in report.lines() {
        if let Some(path) = line.strip_prefix("SF:") {
            path.rsplit("fw-common/").next().unwrap_or(path).clone_into(&mut file);
        } else if let Some((number, count)) = line.strip_prefix("DA:").and_then(|data| data.split_once(','))
            && let (Ok(number), Ok(count)) = (number.parse(), count.parse::<u64>())
        {
            // Several programs run the same line.
            *files.entry(file.clone()).or_default().entry(number).or_default() += count;
        }
    }
    files
}

fn covered(lines: impl Iterator<Item = (usize, u64)>) -> (usize, usize) {
    lines.fold((0, 0), |(covered, count), (_, times)| (covered + usize::from(times > 0), count + 1))
}

fn table(files: &BTreeMap<String, Lines>) -> String {
    let row = |name: &str, (covered, count): (usize, usize), missed: &str| {
        let tenths = covered * 1000 / count.max(1);
        format!("{name:28} {covered:5} {count:6} {:3}.{} %  {missed}", tenths / 10, tenths % 10)
            .trim_end()
            .to_owned()
    };
    let mut rows = vec![format!("{:28} {:>5} {:>6} {:>7}  not run", "file of fw-common", "run", "lines", "")];
    for (name, lines) in files {
        let missed = lines.iter().filter(|(_, count)| **count == 0);
        let missed: Vec<String> = missed.map(|(line, _)| line.to_string()).collect();
        rows.push(row(name, covered(lines.iter().map(|(line, count)| (*line, *count))), &missed.join(" ")));
    }
    let all = files.values().flatten().map(|(line, count)| (*line, *count));
    rows.push(row("all", covered(all), ""));
    rows.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_summed_over_programs() {
        let report = "SF:/x/fw-common/src/a.rs\nDA:1,2\nDA:2,0\nend_of_record\nSF:/x/fw-common/src/b.rs\nDA:7,0\n\
            SF:/x/fw-common/src/a.rs\nDA:2,1\nDA:3,0\n";
        let files = lines(report);
        assert_eq!(files["src/a.rs"], Lines::from([(1, 2), (2, 1), (3, 0)]));
        let squeezed: Vec<String> =
            table(&files).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(squeezed[1..], ["src/a.rs 2 3 66.6 % 3", "src/b.rs 0 1 0.0 % 7", "all 2 4 50.0 %"]);
    }
}
