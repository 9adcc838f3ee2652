//! A page of metrics: families, each with its samples, and their text in the two forms that Prometheus reads.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::told::Durations;

/// What a family's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until the kernel's maps or the daemon begin anew.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often a value fell into each of some ranges.
    Histogram,
}

impl Kind {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What samples of one name have in common.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// The name, that of a counter without `_total`.
    pub name: &'static str,
    /// What its samples are.
    pub kind: Kind,
    /// The labels that each of them has.
    pub labels: &'static [&'static str],
    /// What it says, in one sentence.
    pub help: &'static str,
}

impl Family {
    /// The name of its samples, as one asks for it.
    pub fn sample_name(&self) -> String {
        let suffix = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{suffix}", self.name)
    }
}

/// A value with those of its family's labels, in their order.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) labels: Vec<String>,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Whole(u64),
    Real(f64),
    Spread(Durations),
}

/// How text is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `OpenMetrics` 1.0.
    OpenMetrics,
    /// Prometheus' own text format 0.0.4, for whoever does not ask for the other.
    Text,
}

impl Format {
    /// The better of the forms that a request takes, by its `Accept`.
    pub fn of(accept: &str) -> Self {
        let types = accept.split(',').map(|range| range.split(';').next().unwrap_or_default().trim());
        let known = types.into_iter().any(|name| name == "application/openmetrics-text");
        if known { Self::OpenMetrics } else { Self::Text }
    }

    /// Its `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Families with their samples.
#[derive(Debug, Default)]
pub(super) struct Page(Vec<(&'static Family, Vec<Sample>)>);

impl Page {
    /// Adds a family. One without samples is left out.
    pub(super) fn add(&mut self, family: &'static Family, samples: impl IntoIterator<Item = Sample>) {
        let samples: Vec<Sample> = samples.into_iter().collect();
        if !samples.is_empty() {
            self.0.push((family, samples));
        }
    }

    /// Adds a family of one sample without labels.
    pub(super) fn one(&mut self, family: &'static Family, value: impl Into<Value>) {
        self.add(family, [Sample { labels: Vec::new(), value: value.into() }]);
    }

    /// The text of the page.
    pub(super) fn text(self, format: Format) -> Result<String, fmt::Error> {
        let families = self.0.iter().map(|(family, _)| *family);
        let counters = families.filter(|family| family.kind == Kind::Counter).map(|family| family.name);
        let counters: Vec<&str> = counters.collect();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(match format {
            Format::OpenMetrics => text,
            Format::Text => as_text(&text, &counters),
        })
    }
}

/// `OpenMetrics` as format 0.0.4, in which a counter's family has the name of its samples, and a page has no end.
fn as_text(text: &str, counters: &[&str]) -> String {
    let mut lines = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(&name) => {
                lines += &format!("# {what} {name}_total {rest}\n");
            }
            _ => {
                lines += line;
                lines.push('\n');
            }
        }
    }
    lines
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (family, samples) in &self.0 {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for Sample { labels, value } in samples {
                let labels: Vec<(&str, &str)> =
                    family.labels.iter().copied().zip(labels.iter().map(String::as_str)).collect();
                if labels.is_empty() {
                    value.encode(family.kind, &mut metric)?;
                } else {
                    value.encode(family.kind, &mut metric.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

impl Value {
    fn encode(&self, kind: Kind, metric: &mut MetricEncoder<'_>) -> fmt::Result {
        match (self, kind) {
            (Self::Whole(value), Kind::Counter) => metric.encode_counter::<NoLabelSet, _, f64>(value, None),
            (Self::Real(value), Kind::Counter) => metric.encode_counter::<NoLabelSet, _, f64>(value, None),
            (Self::Whole(value), _) => metric.encode_gauge(value),
            (Self::Real(value), _) => metric.encode_gauge(value),
            (Self::Spread(Durations { buckets, sum, count }), _) => {
                metric.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
            }
        }
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static SEEN: Family =
        Family { name: "fw_seen", kind: Kind::Counter, labels: &["by"], help: "How often." };
    static HELD: Family = Family { name: "fw_held", kind: Kind::Gauge, labels: &[], help: "How many." };
    static LATE: Family =
        Family { name: "fw_late_seconds", kind: Kind::Histogram, labels: &[], help: "How late." };

    fn page() -> Page {
        let late = Durations { buckets: vec![(0.5, 1), (f64::INFINITY, 0)], sum: 0.25, count: 1 };
        let mut page = Page::default();
        page.add(&SEEN, [Sample { labels: vec!["a \"b\"\n".to_owned()], value: 7u64.into() }]);
        page.one(&HELD, 1.5);
        page.one(&LATE, Value::Spread(late));
        page
    }

    #[test]
    fn open_metrics_name_a_counter_without_its_suffix() {
        let text = page().text(Format::OpenMetrics).expect("text");
        assert_eq!(
            text,
            "# HELP fw_seen How often.\n# TYPE fw_seen counter\nfw_seen_total{by=\"a \\\"b\\\"\\n\"} 7\n\
             # HELP fw_held How many.\n# TYPE fw_held gauge\nfw_held 1.5\n\
             # HELP fw_late_seconds How late.\n# TYPE fw_late_seconds histogram\nfw_late_seconds_sum 0.25\n\
             fw_late_seconds_count 1\nfw_late_seconds_bucket{le=\"0.5\"} 1\nfw_late_seconds_bucket{le=\"+Inf\"} 1\n# EOF\n"
        );
    }

    #[test]
    fn the_text_format_names_it_with_it() {
        let text = page().text(Format::Text).expect("text");
        assert!(
            text.starts_with("# HELP fw_seen_total How often.\n# TYPE fw_seen_total counter\nfw_seen_total{")
        );
        assert!(text.contains("# TYPE fw_held gauge\n") && !text.contains("EOF"), "{text}");
    }

    #[test]
    fn who_does_not_ask_gets_the_text_format() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::of(prometheus), Format::OpenMetrics);
        for other in ["", "*/*", "text/plain", "text/html, application/openmetrics-texts"] {
            assert_eq!(Format::of(other), Format::Text, "{other}");
        }
    }
}
