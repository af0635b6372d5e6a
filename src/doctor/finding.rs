//! What a check has found, and how it is told: lines for a person, one object for a program. Pure.

use serde::Serialize;

use crate::config::Problem;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Light {
    /// As it should be.
    Green,
    /// It works, but not as it should; or it could not be looked at.
    Yellow,
    /// It does not work like this.
    Red,
}

impl Light {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Light::Green => "green",
            Light::Yellow => "yellow",
            Light::Red => "red",
        }
    }

    /// The mark on a terminal: the word in its colour, for whoever does not see colours.
    fn mark(self, coloured: bool) -> String {
        let word = format!("{:<6}", self.word());
        let code = match self {
            Light::Green => 32,
            Light::Yellow => 33,
            Light::Red => 31,
        };
        if coloured { format!("\u{1b}[{code}m{word}\u{1b}[0m") } else { word }
    }
}

/// The outcome of one check. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How bad it is.
    pub state: Light,
    /// What was found, in one line.
    pub text: String,
    /// What to do; only where it is not green.
    pub remedy: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn green(name: &'static str, text: impl Into<String>) -> Finding {
        Finding { name, state: Light::Green, text: text.into(), remedy: None }
    }

    /// It could be better.
    pub fn yellow(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { name, state: Light::Yellow, text: text.into(), remedy: Some(remedy.into()) }
    }

    /// It does not work.
    pub fn red(name: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { name, state: Light::Red, text: text.into(), remedy: Some(remedy.into()) }
    }

    /// What a wrong setting, or what it names, is to the doctor.
    pub fn of(name: &'static str, problem: &Problem) -> Finding {
        Finding::red(name, problem.what.clone(), problem.remedy.clone())
    }

    /// One line, and a second one with what to do.
    pub fn lines(&self, coloured: bool) -> String {
        // What others say may have line ends in it.
        let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut lines = format!("{} {:<11} {}\n", self.state.mark(coloured), self.name, flat(&self.text));
        if let Some(remedy) = &self.remedy {
            lines += &format!("       {:<11} {}\n", "", flat(remedy));
        }
        lines
    }
}

/// All that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The worst of it.
    pub verdict: Light,
    /// Each check, in order.
    pub checks: Vec<Finding>,
}

impl Report {
    /// Of these.
    pub fn new(checks: Vec<Finding>) -> Report {
        let verdict = checks.iter().map(|it| it.state).max().unwrap_or(Light::Green);
        Report { verdict, checks }
    }

    /// The last line.
    pub fn summary(&self, coloured: bool) -> String {
        let count = |light| self.checks.iter().filter(|it| it.state == light).count();
        let (green, yellow, red) = (count(Light::Green), count(Light::Yellow), count(Light::Red));
        let what = match self.verdict {
            Light::Green => "all is well",
            Light::Yellow => "it works; what is yellow could be better",
            Light::Red => "what is red keeps it from working",
        };
        format!("{} {green} green, {yellow} yellow, {red} red: {what}\n", self.verdict.mark(coloured))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_can_be_read_without_colours_and_a_remedy_has_a_line_of_its_own() {
        let finding = Finding::red("dns", "no\nsuch name", "ask  another");
        let plain = finding.lines(false);
        assert_eq!(plain, "red    dns         no such name\n                   ask another\n");
        let coloured = finding.lines(true);
        assert!(coloured.contains("\u{1b}[31mred   \u{1b}[0m"), "{coloured:?}");
        assert_eq!(coloured.replace("\u{1b}[31m", "").replace("\u{1b}[0m", ""), plain);
    }

    #[test]
    fn the_verdict_is_the_worst() {
        let green = Finding::green("a", "fine");
        let yellow = Finding::yellow("b", "so so", "help");
        let red = Finding::red("c", "bad", "help");
        assert_eq!(Report::new(vec![green.clone()]).verdict, Light::Green);
        assert_eq!(Report::new(vec![yellow.clone(), green.clone()]).verdict, Light::Yellow);
        let report = Report::new(vec![green, red, yellow]);
        assert_eq!(report.verdict, Light::Red);
        assert!(report.summary(false).contains("1 green, 1 yellow, 1 red"), "{}", report.summary(false));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["verdict"], "red");
        assert_eq!(
            json["checks"][0],
            serde_json::json!({"name": "a", "state": "green", "text": "fine", "remedy": null})
        );
    }
}
