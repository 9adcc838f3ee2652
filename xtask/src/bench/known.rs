//! What fw costs as far as is known: a run that is worse fails, whatever the machine does meanwhile.

use anyhow::{Result, ensure};

use super::page::Found;
use super::path::FLOOR_AGAIN;
use super::report::Size;
use super::targets::{ALONE, AT_GENERIC, AT_NATIVE, AT_TCX, BESIDE, FLOOR, Quotient};

/// What, who and by whom it is divided, and the ratio at [`SIZES`], in runs with `--quick`. Whoever makes fw faster, or slower
/// for a reason, writes the new ones here; a run prints them.
const KNOWN: [(Quotient, [f64; 2]); 11] = [
    (("established in", ALONE, FLOOR), [1.325, 1.325]),
    (("established in", BESIDE, FLOOR), [1.425, 1.415]),
    (("reply", ALONE, FLOOR), [1.525, 1.535]),
    (("reply", BESIDE, FLOOR), [1.685, 1.680]),
    (("new flow", ALONE, FLOOR), [1.085, 1.025]),
    (("new flow", BESIDE, FLOOR), [1.160, 1.115]),
    (("unwanted", ALONE, FLOOR), [0.436, 0.436]),
    (("unwanted", BESIDE, FLOOR), [0.440, 0.440]),
    (AT_TCX, [2.365, 2.365]),
    (AT_GENERIC, [2.630, 2.630]),
    (AT_NATIVE, [4.170, 4.170]),
];

/// The same of TCP, at the second size.
const KNOWN_OF_TCP: [(Quotient, f64); 4] = [
    (("TCP round trip", ALONE, FLOOR), 1.229),
    (("TCP round trip", BESIDE, FLOOR), 1.245),
    (("TCP connection", ALONE, FLOOR), 1.290),
    (("TCP connection", BESIDE, FLOOR), 1.315),
];

const SIZES: [Size; 2] = [Size { networks: 1, ports: 10 }, Size { networks: 10, ports: 10 }];

/// Two hosts with the same rules differ by this much from run to run without a sample that shows it: where their maps and
/// chains happen to lie in memory.
const LEAST_NOISE: f64 = 0.02;

/// Prints what is known beside what was found; an error if any is worse by more than twice the noise.
pub(super) fn hold(found: &Found) -> Result<()> {
    println!("\nknown, measured, and the noise: how far the floor was from itself in nine of ten rounds");
    let mut worse = Vec::new();
    for ((what, who, of), at, known) in all() {
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

fn all() -> impl Iterator<Item = (Quotient, Size, f64)> {
    let packets = KNOWN
        .into_iter()
        .flat_map(|(whose, known)| SIZES.into_iter().zip(known).map(move |(at, known)| (whose, at, known)));
    packets.chain(KNOWN_OF_TCP.into_iter().map(|(whose, known)| (whose, SIZES[1], known)))
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
        for ((what, who, of), at, known) in all() {
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
        hold(&run(1.03, 0.0)).unwrap();
        let error = hold(&run(1.05, 0.0)).unwrap_err().to_string();
        assert!(error.contains("established in, 1 / 10, fw, nat.owner = fw: "), "{error}");
        hold(&run(1.05, 0.04)).unwrap();
        hold(&run(1.10, 0.04)).unwrap_err();
    }

    #[test]
    fn what_was_not_measured_fails() {
        let error = hold(&Found::of_parts(Vec::new())).unwrap_err().to_string();
        assert!(
            error.contains("TCP connection, 10 / 10, fw, nat.owner = docker: was not measured"),
            "{error}"
        );
    }
}
