//! What a kind of fault must say of itself, whichever mode injects it.

use std::time::Duration;

use clap::ValueEnum;

use super::Fail;

/// A list of faults.
pub trait Harm: ValueEnum + Copy + Ord {
    /// How long it may take until it is noticed, with much to spare.
    fn notice(self) -> Duration;

    /// Why it is injected only when it is asked for by name: what nobody can survive yet.
    fn why_not(self) -> Option<&'static str> {
        None
    }

    /// The name that it is asked for by.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned())
    }

    /// What it is, in words.
    fn about(self) -> String {
        let help = self.to_possible_value().and_then(|it| it.get_help().map(ToString::to_string));
        help.unwrap_or_default()
    }
}

/// What is asked for, but for what is left out; if nothing is, all that can be survived.
///
/// # Errors
/// When a name is not on the list.
pub fn chosen<F: Harm>(wanted: &[String], without: &[String]) -> Result<Vec<F>, Fail> {
    let named = |names: &[String]| {
        let unknown = |name: &String| format!("there is no fault {name} in this mode; see --help");
        names.iter().map(|it| F::from_str(it, false).map_err(|_| unknown(it))).collect::<Result<Vec<F>, _>>()
    };
    let without = named(without)?;
    let mut chosen = named(wanted)?;
    if chosen.is_empty() {
        chosen.extend(F::value_variants().iter().copied().filter(|it| it.why_not().is_none()));
    }
    chosen.retain(|it| !without.contains(it));
    Ok(chosen)
}

/// The list, for `--help`.
pub fn listed<F: Harm>() -> String {
    F::value_variants().iter().map(|it| format!("  {:<17} {}\n", it.name(), it.about())).collect()
}
