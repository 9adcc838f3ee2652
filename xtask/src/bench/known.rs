//! What fw costs as far as is known: a run that is worse fails, whatever the machine does meanwhile.

use anyhow::{Result, ensure};

use super::page::Found;
use super::path::FLOOR_AGAIN;
use super::report::Size;
use super::targets::{ALONE, AT_GENERIC, AT_NATIVE, AT_TCX, BESIDE, FAST, FAST_BESIDE, FLOOR, Quotient};

/// What, who and by whom it is divided, and the ratio at [`SIZE`], in runs with `--quick`. Whoever makes fw faster, or slower
/// for a reason, writes the new ones here; a run prints them. New flows are not held to anything: what conntrack takes for
/// one differs more from host to host than two hosts with the floor's rules show.
const KNOWN: [(Quotient, f64); 17] = [
    (("established in", ALONE, FLOOR), 1.325),
    (("established in", BESIDE, FLOOR), 1.425),
    (("established in", FAST, FLOOR), 0.410),
    (("established in", FAST_BESIDE, FLOOR), 0.405),
    (("reply", ALONE, FLOOR), 1.485),
    (("reply", BESIDE, FLOOR), 1.565),
    (("reply", FAST, FLOOR), 0.385),
    (("reply", FAST_BESIDE, FLOOR), 0.390),
    (("unwanted", ALONE, FLOOR), 0.385),
    (("unwanted", BESIDE, FLOOR), 0.385),
    (AT_TCX, 2.290),
    (AT_GENERIC, 2.440),
    (AT_NATIVE, 3.775),
    (("TCP round trip", ALONE, FLOOR), 1.210),
    (("TCP round trip", BESIDE, FLOOR), 1.220),
    (("TCP round trip", FAST, FLOOR), 0.880),
    (("TCP round trip", FAST_BESIDE, FLOOR), 0.880),
];

const SIZE: Size = Size { networks: 10, ports: 10 };

/// Two hosts with the same rules differ by this much from run to run without a sample that shows it: where their maps and
/// chains happen to lie in memory.
const LEAST_NOISE: f64 = 0.04;

/// Prints what is known beside what was found; an error if any is worse by more than twice the noise.
pub(super) fn hold(found: &Found) -> Result<()> {
    println!("\nknown, measured, and the noise: how far the floor was from itself in nine of ten rounds");
    let mut worse = Vec::new();
    for ((what, who, of), known) in KNOWN {
        let at = SIZE;
        let name = format!("{what}, {at}, {who}");
        let measured = found.ratio(what, at, who, of).zip(noise(found, what));
        let Some((ratio, noise)) = measured else {
            worse.push(format!("{name}: was not measured"));
            continue;
        };
        let judged = if ratio > known * (1.0 + 2.0 * noise) {
            worse.push(format!("{name}: {ratio:.3} of {of}, {known:.3} is known, noise {noise:.3}"));
            "  WORSE"
        } else if ratio < known * (1.0 - 2.0 * noise) {
            "  better: write it into xtask/src/bench/known.rs"
        } else {
            ""
        };
        println!("  {name:60} {known:.3}  {ratio:.3}  {noise:.3}{judged}");
    }
    ensure!(
        worse.is_empty(),
        "slower than is known by more than twice the noise:\n  {}\nmend it, or say why in xtask/src/bench/known.rs",
        worse.join("\n  ")
    );
    Ok(())
}

/// How far the second host with the floor's rules was from the first in nine of ten rounds of all sizes. Kinds of a path that
/// the floor has no part in are as noisy as the path.
fn noise(found: &Found, what: &str) -> Option<f64> {
    let path = what.split(',').next();
    let again =
        found.figures().filter(|figure| Some(figure.what.as_str()) == path && figure.who == FLOOR_AGAIN);
    let ratios = again.filter_map(|again| Some(again.ratios(found.of(again, FLOOR)?))).flatten();
    let mut apart: Vec<f64> = ratios.map(|ratio| (ratio - 1.0).abs()).collect();
    apart.sort_by(f64::total_cmp);
    Some(apart.get((apart.len() * 9 / 10).checked_sub(1)?)?.max(LEAST_NOISE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::{Figure, Report};

    /// A run in which fw costs `factor` of what is known, and every sample is off by up to `noise`.
    fn run(factor: f64, noise: f64) -> Found {
        let mut report = Report::begin("test", true, 7).unwrap();
        let mut add = |what: &str, at, who: &str, ratio: f64, noise: f64| {
            let samples =
                (0..7).map(|round| 500.0 * ratio * (1.0 + noise * f64::from(round - 3) / 3.0)).collect();
            let (what, who, unit) = (what.to_owned(), who.to_owned(), "ns".to_owned());
            report.add(Figure { what, at: Some(at), who, unit, samples, must: None }).unwrap();
        };
        for ((what, who, of), known) in KNOWN {
            let at = SIZE;
            add(what, at, of, 1.0, 0.0);
            add(what, at, FLOOR_AGAIN, 1.0, noise);
            add(what, at, who, known * factor, noise);
        }
        Found::of_parts(vec![report])
    }

    #[test]
    fn what_is_slower_by_more_than_twice_the_noise_fails() {
        hold(&run(1.0, 0.0)).unwrap();
        hold(&run(0.5, 0.0)).unwrap();
        hold(&run(1.07, 0.0)).unwrap();
        let error = hold(&run(1.09, 0.0)).unwrap_err().to_string();
        assert!(error.contains("established in, 10 / 10, fw, nat.owner = fw: "), "{error}");
        hold(&run(1.09, 0.08)).unwrap();
        hold(&run(1.20, 0.08)).unwrap_err();
    }

    #[test]
    fn what_was_not_measured_fails() {
        let error = hold(&Found::of_parts(Vec::new())).unwrap_err().to_string();
        assert!(
            error.contains("TCP round trip, 10 / 10, fw, nat.owner = docker: was not measured"),
            "{error}"
        );
    }
}
