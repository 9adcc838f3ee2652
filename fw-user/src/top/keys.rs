//! Which part of the picture is looked at, and what keys change in that.

/// The four views.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    /// Containers by what they send and get.
    #[default]
    Talkers,
    /// Drops by reason and by rule.
    Drops,
    /// Flows by container.
    Flows,
    /// Networks.
    Networks,
}

impl Tab {
    /// All, in the order of their keys.
    pub const ALL: [Self; 4] = [Self::Talkers, Self::Drops, Self::Flows, Self::Networks];

    /// Its title.
    pub fn title(self) -> &'static str {
        match self {
            Self::Talkers => "Talkers",
            Self::Drops => "Drops",
            Self::Flows => "Flows",
            Self::Networks => "Networks",
        }
    }

    /// What it may be sorted by; the first is as it comes.
    pub fn orders(self) -> &'static [&'static str] {
        match self {
            Self::Talkers | Self::Networks => &["bytes", "packets", "name"],
            Self::Drops => &["rate", "total", "name"],
            Self::Flows => &["flows", "cut", "name"],
        }
    }

    fn number(self) -> usize {
        Self::ALL.iter().position(|tab| *tab == self).unwrap_or(0)
    }
}

/// What is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Which view.
    pub tab: Tab,
    /// By which of its orders each view is sorted.
    pub orders: [usize; 4],
    /// The first line that is shown.
    pub scroll: usize,
    /// Nothing new is read.
    pub paused: bool,
    /// Only lines that hold this.
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    /// The keys are explained.
    pub help: bool,
    /// Colours may be used.
    pub colour: bool,
}

/// A key, as far as it means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressed {
    /// A letter or sign.
    Char(char),
    /// Ends what is typed.
    Enter,
    /// Gives up what is typed.
    Escape,
    /// Takes the last letter back.
    Backspace,
    /// The next view.
    Tab,
    /// One line up.
    Up,
    /// One line down.
    Down,
    /// Ctrl and this letter.
    Control(char),
}

/// What a key asks of the one who draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// To draw.
    Draw,
    /// To end.
    End,
    /// To stop until it is continued, as a job of the shell.
    Suspend,
}

impl View {
    /// The order by which a view is sorted.
    pub fn order(&self, tab: Tab) -> &'static str {
        tab.orders().get(self.orders[tab.number()]).copied().unwrap_or("name")
    }

    /// Whether a line with these words is shown.
    pub fn shows(&self, words: &[&str]) -> bool {
        let wanted = self.filter.to_lowercase();
        wanted.is_empty() || words.iter().any(|word| word.to_lowercase().contains(&wanted))
    }

    /// Does what a key means.
    pub fn press(&mut self, key: Pressed) -> Outcome {
        match key {
            Pressed::Control('c' | 'd') => return Outcome::End,
            Pressed::Control('z') => return Outcome::Suspend,
            key if self.typing => self.typed(key),
            _ if self.help => self.help = false,
            Pressed::Char('q') => return Outcome::End,
            Pressed::Char(number @ '1'..='4') => {
                let at = number.to_digit(10).map_or(0, |number| number as usize - 1);
                self.go(Tab::ALL[at]);
            }
            Pressed::Tab => self.go(Tab::ALL[(self.tab.number() + 1) % Tab::ALL.len()]),
            Pressed::Char('s') => {
                let order = &mut self.orders[self.tab.number()];
                *order = (*order + 1) % self.tab.orders().len();
            }
            Pressed::Char('p' | ' ') => self.paused = !self.paused,
            Pressed::Char('/') => self.typing = true,
            Pressed::Char('?' | 'h') => self.help = true,
            Pressed::Escape => self.filter.clear(),
            Pressed::Up | Pressed::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            Pressed::Down | Pressed::Char('j') => self.scroll += 1,
            Pressed::Char(_) | Pressed::Enter | Pressed::Backspace | Pressed::Control(_) => {}
        }
        Outcome::Draw
    }

    fn go(&mut self, tab: Tab) {
        self.tab = tab;
        self.scroll = 0;
    }

    fn typed(&mut self, key: Pressed) {
        self.scroll = 0;
        match key {
            Pressed::Char(letter) => self.filter.push(letter),
            Pressed::Backspace => _ = self.filter.pop(),
            Pressed::Enter => self.typing = false,
            Pressed::Escape => {
                self.filter.clear();
                self.typing = false;
            }
            Pressed::Tab | Pressed::Up | Pressed::Down | Pressed::Control(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(view: &mut View, keys: &str) -> Outcome {
        keys.chars().map(|key| view.press(Pressed::Char(key))).last().unwrap_or(Outcome::Draw)
    }

    #[test]
    fn keys_choose_sort_and_filter() {
        let mut view = View::default();
        press(&mut view, "2ss");
        assert_eq!(
            (view.tab, view.order(Tab::Drops), view.order(Tab::Talkers)),
            (Tab::Drops, "name", "bytes")
        );
        press(&mut view, "s");
        assert_eq!(view.order(Tab::Drops), "rate", "round again");
        view.press(Pressed::Tab);
        assert_eq!(view.tab, Tab::Flows);
        press(&mut view, "p");
        assert!(view.paused);
        press(&mut view, "/q1");
        assert_eq!((view.filter.as_str(), view.tab), ("q1", Tab::Flows), "letters, while it is typed");
        view.press(Pressed::Backspace);
        view.press(Pressed::Enter);
        assert!(view.shows(&["x", "aQb"]) && !view.shows(&["x"]));
        view.press(Pressed::Escape);
        assert!(view.shows(&["x"]));
        press(&mut view, "?");
        assert!(view.help);
        assert_eq!(press(&mut view, "q"), Outcome::Draw, "any key leaves the help");
        assert_eq!(press(&mut view, "q"), Outcome::End);
    }

    #[test]
    fn control_keys_work_while_something_is_typed() {
        let mut view = View { typing: true, ..View::default() };
        assert_eq!(view.press(Pressed::Control('c')), Outcome::End);
        assert_eq!(view.press(Pressed::Control('z')), Outcome::Suspend);
        view.press(Pressed::Up);
        assert_eq!(view.scroll, 0);
    }
}
