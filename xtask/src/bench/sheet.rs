//! Single figures, each with what it must be: printed as they are found, and kept as JSON.

use anyhow::{Context as _, Result};

use super::report::{Figure, Report};
use super::sample::Spread;

/// All figures of one run, and where they come from.
pub(super) struct Sheet {
    report: Report,
    /// Cargo's profile of the daemon.
    build: &'static str,
}

impl Sheet {
    /// Notes where and when. Named parts are listed in `page::PARTS`.
    pub(super) fn begin(name: &str, quick: bool, build: &'static str) -> Result<Self> {
        let mut report = Report::begin(name, quick, 1)?;
        report.machine += &format!(", fw built as {build}");
        println!(
            "{}, kernel {}, {}, load {}; medians (least to most)",
            report.machine, report.kernel, report.date, report.load
        );
        Ok(Self { report, build })
    }

    /// A heading of what follows.
    pub(super) fn about(what: &str) {
        println!("\n{what}");
    }

    /// Prints and keeps a figure of at least one sample, and the most that it may be.
    pub(super) fn add(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        samples: &[f64],
        must: Option<f64>,
    ) -> Result<()> {
        let what = what.into();
        // Times are promised of what is shipped.
        let must = must.filter(|_| self.build == "release" || unit.is_empty());
        let spread = Spread::of(samples.iter().copied());
        let Spread { median, least, most } = spread.with_context(|| format!("no sample of: {what}"))?;
        let judged = match must {
            Some(must) if median <= must => format!("  must be {must} {unit} at most"),
            Some(must) => format!("  MISSED: must be {must} {unit} at most"),
            None => String::new(),
        };
        println!("  {what:66} {median:10.2} {unit:4} ({least:.2} to {most:.2}){judged}");
        let (who, unit) = (String::new(), unit.to_owned());
        self.report.keep(Figure { what, at: None, who, unit, samples: samples.to_vec(), must });
        Ok(())
    }

    /// Writes it to target/bench.
    pub(super) fn end(self) -> Result<()> {
        self.report.end()
    }
}
