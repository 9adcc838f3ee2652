//! How a picture is drawn: one view at 80×24, all four where there is room.

use ratatui::Frame;
use ratatui::buffer::{Buffer, Cell};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Row, Table};

use super::{FlowsOf, Net, Picture, Rate, Tab, Talker, Verdicts, View};

/// From this size on all views are shown at once.
const ROOMY: (u16, u16) = (160, 40);

/// Draws the picture as it is looked at.
pub fn draw(frame: &mut Frame<'_>, picture: &Picture, view: &View) {
    let rows = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ]);
    let [head, tabs, body, foot] = rows.areas(frame.area());
    header(frame, head, picture, view);
    tab_line(frame, tabs, view);
    if body.width >= ROOMY.0 && body.height >= ROOMY.1 - 5 {
        let [above, below] = Layout::vertical([Constraint::Fill(1); 2]).areas(body);
        for (half, both) in [(above, [Tab::Talkers, Tab::Drops]), (below, [Tab::Flows, Tab::Networks])] {
            let places: [Rect; 2] = Layout::horizontal([Constraint::Fill(1); 2]).areas(half);
            for (place, tab) in places.into_iter().zip(both) {
                let chosen = if tab == view.tab { "*" } else { "" };
                let title = format!(" {}{chosen} by {} ", tab.title(), view.order(tab));
                let block = Block::new().borders(Borders::TOP).title(title);
                let inside = block.inner(place);
                frame.render_widget(block, place);
                one(frame, inside, picture, view, tab);
            }
        }
    } else {
        one(frame, body, picture, view, view.tab);
    }
    let keys = if view.typing {
        format!(" filter: {}_   Enter keeps it, Esc gives it up", view.filter)
    } else {
        " q quit  1-4 Tab view  s sort  p pause  / filter  j k scroll  ? help".to_owned()
    };
    frame.render_widget(Paragraph::new(keys).style(Style::new().add_modifier(Modifier::REVERSED)), foot);
    if view.help {
        help(frame);
    }
}

fn header(frame: &mut Frame<'_>, area: Rect, picture: &Picture, view: &View) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut first = format!(" mode {}  {}  over {:.1} s", picture.mode, picture.daemon, picture.seconds);
    if view.paused {
        first += "  PAUSED";
    }
    if !view.filter.is_empty() && !view.typing {
        first += &format!("  filter: {}", view.filter);
    }
    let what = if picture.mode == "observe" { "would be dropped" } else { "dropped" };
    let uplinks = format!(
        " uplinks in {}, out {}   {what} {} pkt/s",
        rate(picture.uplink_in),
        rate(picture.uplink_out),
        short(picture.dropped.packets),
    );
    let problems = match &picture.problems[..] {
        [] => Line::from(" no problems"),
        some => Line::styled(
            format!(" PROBLEM: {}", some.join("; ")),
            if view.colour { bold.fg(Color::Red) } else { bold },
        ),
    };
    let lines = vec![
        Line::from(vec![Span::styled(" fw top ", bold.add_modifier(Modifier::REVERSED)), Span::raw(first)]),
        Line::from(uplinks),
        problems,
    ];
    frame.render_widget(Paragraph::new(lines), area);
}

fn tab_line(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut spans = vec![Span::raw(" ")];
    for (tab, number) in Tab::ALL.into_iter().zip(1..) {
        let text = format!("{number} {}", tab.title());
        spans.push(if tab == view.tab {
            Span::styled(format!("[{text}]"), bold)
        } else {
            Span::raw(format!(" {text} "))
        });
        spans.push(Span::raw(" "));
    }
    spans.push(Span::raw(format!("  by {}", view.order(view.tab))));
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn one(frame: &mut Frame<'_>, area: Rect, picture: &Picture, view: &View, tab: Tab) {
    match tab {
        Tab::Talkers => talkers(frame, area, picture, view),
        Tab::Drops => {
            let [above, below] = Layout::vertical([Constraint::Fill(3), Constraint::Fill(2)]).areas(area);
            verdicts(frame, above, &picture.drops, view, "REASON");
            verdicts(frame, below, &picture.rules, view, "RULE");
        }
        Tab::Flows => flows(frame, area, picture, view),
        Tab::Networks => networks(frame, area, picture, view),
    }
}

fn talkers(frame: &mut Frame<'_>, area: Rect, picture: &Picture, view: &View) {
    let words = |it: &&Talker| view.shows(&[&it.container, &it.network, &it.device]);
    let mut shown: Vec<&Talker> = picture.talkers.iter().filter(words).collect();
    let both = |it: &Talker| it.to.plus(it.from);
    sort(&mut shown, view.order(Tab::Talkers), |it, by| match by {
        "bytes" => both(it).bytes,
        _ => both(it).packets,
    });
    let row = |it: &&Talker| {
        vec![
            it.container.clone(),
            it.network.clone(),
            it.device.clone(),
            short(it.to.bytes),
            short(it.from.bytes),
            short(it.to.packets),
            short(it.from.packets),
        ]
    };
    let heads = ["CONTAINER", "NETWORK", "PORT", "IN B/s", "OUT B/s", "IN pkt/s", "OUT pkt/s"];
    table(frame, area, view, Tab::Talkers, heads, 3, shown.iter().map(row).collect());
}

fn verdicts(frame: &mut Frame<'_>, area: Rect, all: &[Verdicts], view: &View, what: &'static str) {
    let words = |it: &&Verdicts| view.shows(&[&it.name, it.hook.unwrap_or_default()]);
    let mut shown: Vec<&Verdicts> = all.iter().filter(words).collect();
    sort(&mut shown, view.order(Tab::Drops), |it, by| match by {
        "rate" => it.rate.packets,
        _ => super::as_float(it.packets),
    });
    let row = |it: &&Verdicts| {
        vec![
            it.name.clone(),
            it.hook.unwrap_or_default().to_owned(),
            short(it.rate.packets),
            short(it.rate.bytes),
            it.packets.to_string(),
        ]
    };
    let hook = if what == "RULE" { "" } else { "HOOK" };
    let heads = [what, hook, "pkt/s", "B/s", "PACKETS"];
    table(frame, area, view, Tab::Drops, heads, 2, shown.iter().map(row).collect());
}

fn flows(frame: &mut Frame<'_>, area: Rect, picture: &Picture, view: &View) {
    let [note, area] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let total: u64 = picture.flows.iter().map(|it| it.out + it.came).sum();
    let text = match picture.flows_took_ms {
        Some(took) => {
            format!(" {total} live flows, counted within {:.1} s", super::as_float(took) / 1000.0)
        }
        None => " counting, some at a time".to_owned(),
    };
    frame.render_widget(Paragraph::new(text), note);
    let mut shown: Vec<&FlowsOf> = picture.flows.iter().filter(|it| view.shows(&[&it.owner])).collect();
    sort(&mut shown, view.order(Tab::Flows), |it, by| match by {
        "flows" => super::as_float(it.out + it.came),
        _ => super::as_float(it.cut),
    });
    let row =
        |it: &&FlowsOf| vec![it.owner.clone(), it.out.to_string(), it.came.to_string(), it.cut.to_string()];
    let heads = ["CONTAINER", "WENT OUT", "CAME IN", "CUT"];
    table(frame, area, view, Tab::Flows, heads, 1, shown.iter().map(row).collect());
}

fn networks(frame: &mut Frame<'_>, area: Rect, picture: &Picture, view: &View) {
    let words = |it: &&Net| view.shows(&[&it.network, &it.bridge]);
    let mut shown: Vec<&Net> = picture.networks.iter().filter(words).collect();
    sort(&mut shown, view.order(Tab::Networks), |it, by| match by {
        "bytes" => it.to.plus(it.from).bytes,
        _ => it.to.plus(it.from).packets,
    });
    let row = |it: &&Net| {
        vec![
            it.network.clone(),
            it.bridge.clone(),
            it.containers.to_string(),
            short(it.to.bytes),
            short(it.from.bytes),
            short(it.to.packets),
            short(it.from.packets),
        ]
    };
    let heads = ["NETWORK", "BRIDGE", "MEMBERS", "IN B/s", "OUT B/s", "IN pkt/s", "OUT pkt/s"];
    table(frame, area, view, Tab::Networks, heads, 2, shown.iter().map(row).collect());
}

/// Most first; by name they stand already.
fn sort<T>(all: &mut [&T], by: &str, value: impl Fn(&T, &str) -> f64) {
    if by != "name" {
        all.sort_by(|one, other| value(other, by).total_cmp(&value(one, by)));
    }
}

/// Columns of words, and from the column `numbers` on of numbers.
fn table<const N: usize>(
    frame: &mut Frame<'_>,
    area: Rect,
    view: &View,
    tab: Tab,
    heads: [&'static str; N],
    numbers: usize,
    mut rows: Vec<Vec<String>>,
) {
    if view.order(tab) == "name" {
        rows.sort();
    }
    let skipped = if view.tab == tab { view.scroll.min(rows.len().saturating_sub(1)) } else { 0 };
    let cells = |cells: Vec<String>| {
        let aligned = |(at, text): (usize, String)| {
            if at >= numbers { Line::from(text).right_aligned() } else { Line::from(text) }
        };
        Row::new(cells.into_iter().enumerate().map(aligned).collect::<Vec<_>>())
    };
    // Names of containers are the longest; those of ports have eleven letters with Docker. Totals are long numbers.
    let widths = heads.iter().enumerate().map(|(at, head)| match *head {
        "PACKETS" => Constraint::Length(12),
        _ if at >= numbers => Constraint::Length(9),
        _ if at == 0 => Constraint::Fill(5),
        _ => Constraint::Fill(4),
    });
    let underlined = Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
    let head = cells(heads.map(str::to_owned).to_vec()).style(underlined);
    let is_empty = rows.is_empty();
    let drawn = Table::new(rows.into_iter().skip(skipped).map(cells), widths).header(head).column_spacing(1);
    let padded = Rect { x: area.x + 1, width: area.width.saturating_sub(2), ..area };
    frame.render_widget(drawn, padded);
    if is_empty && padded.height > 1 {
        let line = Rect { y: padded.y + 1, height: 1, ..padded };
        frame.render_widget(
            Paragraph::new(if view.filter.is_empty() { "(none)" } else { "(none fits the filter)" }),
            line,
        );
    }
}

fn help(frame: &mut Frame<'_>) {
    const TEXT: &str = "\
1 2 3 4   talkers, drops, flows, networks (Tab: the next)
s         sort by the next column
p         pause; what is shown stays
/         show only lines that hold a text; Esc shows all
j k       scroll
q ^C      quit          ^Z  stop, `fg` goes on

IN and OUT are seen from the container: IN is sent to it.
Rates come from the devices of ports: of what takes the fast
path into a container, they may not show all.
Drops are counted at every hook; flows are counted some
thousands at a time, so that large tables cost little.";
    let area = frame.area();
    let (width, height) = (64.min(area.width), 15.min(area.height));
    let (x, y) = (area.x + (area.width - width) / 2, area.y + (area.height - height) / 2);
    let place = Rect { x, y, width, height };
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(TEXT).block(Block::bordered().title(" Keys ")), place);
}

/// What was drawn, as text: styles left out, no blanks at the ends of lines.
pub fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width.max(1));
    let lines = buffer.content().chunks(width).map(|cells| {
        let line: String = cells.iter().map(Cell::symbol).collect();
        format!("{}\n", line.trim_end())
    });
    lines.collect()
}

fn rate(rate: Rate) -> String {
    format!("{} pkt/s {} B/s", short(rate.packets), short(rate.bytes))
}

const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];

/// Three digits and a unit.
fn short(number: f64) -> String {
    if number <= 0.0 {
        return "0".to_owned();
    }
    let (mut scaled, mut unit) = (number, 0);
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(scaled < 9.95 && (unit > 0 || scaled.fract() > 0.0));
    format!("{scaled:.digits$}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_at_most() {
        for (number, text) in [
            (0.0, "0"),
            (0.04, "0.0"),
            (0.5, "0.5"),
            (7.0, "7"),
            (9.94, "9.9"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (1234.0, "1.2k"),
            (12_345.0, "12k"),
            (999_600.0, "1.0M"),
            (5.0e9, "5.0G"),
            (5.0e15, "5000T"),
        ] {
            assert_eq!(short(number), text);
        }
    }
}
