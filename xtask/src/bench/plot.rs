//! Pictures: what grows with networks and ports, on logarithmic axes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Once;

use anyhow::{Context as _, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

use super::page::Found;
use super::report::{Figure, Size};

/// One drawing, for all figures of one name.
pub(super) struct Picture {
    /// What was measured, and its unit.
    name: String,
    unit: String,
    panels: Vec<Panel>,
}

/// One pair of axes.
struct Panel {
    title: String,
    across: &'static str,
    /// By the number of their series: where across, how much.
    lines: BTreeMap<usize, Vec<(f64, f64)>>,
}

/// Whose figures are drawn, in which colour and how thick: those that a reader compares.
const SERIES: [(&str, RGBColor, u32); 17] = [
    ("fw, nat.owner = fw", RGBColor(0xd6, 0x27, 0x28), 3),
    ("fw, nat.owner = docker", RGBColor(0xff, 0x7f, 0x0e), 3),
    ("fw, fast path, nat.owner = fw", RGBColor(0x8b, 0x00, 0x00), 3),
    ("fw, fast path, nat.owner = docker", RGBColor(0xb8, 0x86, 0x0b), 3),
    // Where XDP is what differs.
    ("fw, xdp = off", RGBColor(0xd6, 0x27, 0x28), 3),
    ("a bare TCX program", RGBColor(0x7f, 0x7f, 0x7f), 2),
    ("NAT alone (nft)", RGBColor(0x00, 0x00, 0x00), 2),
    ("NAT alone (legacy)", RGBColor(0x99, 0x99, 0x99), 1),
    ("nftables sets, iptables NAT", RGBColor(0x2c, 0xa0, 0x2c), 2),
    ("nftables sets and NAT maps", RGBColor(0x98, 0xdf, 0x8a), 1),
    ("Docker 20-27 rules (nft)", RGBColor(0x1f, 0x77, 0xb4), 2),
    ("Docker 20-27 rules (legacy)", RGBColor(0xae, 0xc7, 0xe8), 1),
    ("Docker 28 rules (nft)", RGBColor(0x94, 0x67, 0xbd), 2),
    ("Docker 29 nftables rules", RGBColor(0x8c, 0x56, 0x4b), 2),
    ("raw PREROUTING list (nft)", RGBColor(0xe3, 0x77, 0xc2), 1),
    ("ipset in raw PREROUTING", RGBColor(0xbc, 0xbd, 0x22), 1),
    ("nftables netdev set", RGBColor(0x17, 0xbe, 0xcf), 1),
];

/// Draws what there is to draw below `folder`: SVG for the page, PNG for those who want it.
pub(super) fn draw(found: &Found, folder: &Path) -> Result<Vec<Picture>> {
    fs::create_dir_all(folder.join("performance")).context("cannot make a folder for pictures")?;
    let names: BTreeSet<&str> = found.figures().map(|figure| figure.what.as_str()).collect();
    let pictures: Vec<_> = names.into_iter().filter_map(|name| Picture::of(found, name)).collect();
    register();
    for picture in &pictures {
        let svg = folder.join(picture.file());
        picture
            .paint(&SVGBackend::new(&svg, SIZE).into_drawing_area())
            .and_then(|()| {
                picture.paint(&BitMapBackend::new(&svg.with_extension("png"), SIZE).into_drawing_area())
            })
            .with_context(|| format!("cannot draw {}", svg.display()))?;
    }
    Ok(pictures)
}

impl Picture {
    /// Nothing if there are not two sizes that differ in one number alone.
    fn of(found: &Found, name: &str) -> Option<Self> {
        let figures: Vec<_> = found.figures().filter(|figure| figure.what == name).collect();
        let panels: Vec<_> =
            [Panel::across_networks(&figures), Panel::across_ports(&figures)].into_iter().flatten().collect();
        let unit = figures.first()?.unit.clone();
        (!panels.is_empty()).then(|| Self { name: name.to_owned(), unit, panels })
    }

    pub(super) fn title(&self) -> String {
        format!("{}, {}", self.name, self.unit)
    }

    /// Beside the page.
    pub(super) fn file(&self) -> String {
        let letters = self.name.to_lowercase();
        let words =
            letters.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        format!("performance/{}.svg", words.collect::<Vec<_>>().join("-"))
    }

    fn paint<B: DrawingBackend>(&self, root: &DrawingArea<B, Shift>) -> Result<()> {
        let failed = |error| anyhow!("{error}");
        root.fill(&WHITE).map_err(failed)?;
        let (panels, legend) = root.split_horizontally(SIZE.0 - LEGEND);
        for (area, panel) in panels.split_evenly((1, self.panels.len())).iter().zip(&self.panels) {
            panel.paint(area, &self.title())?;
        }
        let drawn: BTreeSet<usize> =
            self.panels.iter().flat_map(|panel| panel.lines.keys().copied()).collect();
        for (row, number) in (0..).zip(drawn) {
            let (name, color, width) = SERIES[number];
            let y = 60 + 24 * row;
            let line = PathElement::new([(8, y), (34, y)], color.stroke_width(width));
            legend.draw(&line).map_err(failed)?;
            legend.draw(&Text::new(name, (42, y - 7), (FONT, 14))).map_err(failed)?;
        }
        root.present().map_err(failed)
    }
}

impl Panel {
    /// Those of one number of ports: the one that was measured with the most networks.
    fn across_networks(figures: &[&Figure]) -> Option<Self> {
        let sizes = |figure: &Figure| figure.at.map(|at| (u32::from(at.ports), networks(at)));
        Self::across(figures, "networks", "published ports", sizes)
    }

    fn across_ports(figures: &[&Figure]) -> Option<Self> {
        let sizes = |figure: &Figure| figure.at.map(|at| (networks(at), u32::from(at.ports)));
        Self::across(figures, "published ports", "networks", sizes)
    }

    /// `size` says what stays, and where across.
    fn across(
        figures: &[&Figure],
        across: &'static str,
        other: &str,
        size: impl Fn(&Figure) -> Option<(u32, u32)>,
    ) -> Option<Self> {
        let mut measured: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for (stays, at) in figures.iter().filter_map(|figure| size(figure)) {
            measured.entry(stays).or_default().insert(at);
        }
        let (stays, points) = measured.into_iter().max_by_key(|(_, points)| points.len())?;
        if points.len() < 2 {
            return None;
        }
        let mut lines: BTreeMap<usize, Vec<(f64, f64)>> = BTreeMap::new();
        for figure in figures {
            let Some(series) = SERIES.iter().position(|(name, ..)| *name == figure.who) else { continue };
            let Some((_, at)) = size(figure).filter(|(other, _)| *other == stays) else { continue };
            lines.entry(series).or_default().push((f64::from(at), figure.spread()?.median));
        }
        if lines.is_empty() {
            return None;
        }
        for line in lines.values_mut() {
            line.sort_by(|one, other| one.0.total_cmp(&other.0));
        }
        Some(Self { title: format!("{stays} {other}"), across, lines })
    }

    fn paint<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, title: &str) -> Result<()> {
        let failed = |error| anyhow!("{error}");
        let all = || self.lines.values().flatten();
        let range = |of: fn(&(f64, f64)) -> f64, room: f64| {
            let least = all().map(of).fold(f64::MAX, f64::min);
            let most = all().map(of).fold(f64::MIN, f64::max);
            (least / room..most * room).log_scale()
        };
        let mut chart = ChartBuilder::on(area)
            .caption(format!("{title}: {}", self.title), (FONT, 16))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(range(|point| point.0, 1.0), range(|point| point.1, 1.3))
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc(self.across)
            .x_label_formatter(&|at| format!("{at:.0}"))
            .y_label_formatter(&|cost| format!("{cost:.0}"))
            .label_style((FONT, 13))
            .max_light_lines(1)
            .draw()
            .map_err(failed)?;
        // What is drawn first lies below.
        for (number, line) in self.lines.iter().rev() {
            let (_, color, width) = SERIES[*number];
            let points = line.iter().map(|point| Circle::new(*point, width + 1, color.filled()));
            chart
                .draw_series(LineSeries::new(line.iter().copied(), color.stroke_width(width)))
                .map_err(failed)?;
            chart.draw_series(points).map_err(failed)?;
        }
        Ok(())
    }
}

fn networks(size: Size) -> u32 {
    u32::try_from(size.networks).unwrap_or(u32::MAX)
}

/// Has a font of its own: machines that measure have none.
fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if register_font(FONT, FontStyle::Normal, ttf_noto_sans::REGULAR).is_err() {
            unreachable!("the crate's font is one");
        }
    });
}

const FONT: &str = "sans-serif";
/// Width and height, and the width of the legend.
const SIZE: (u32, u32) = (1180, 440);
const LEGEND: u32 = 240;
