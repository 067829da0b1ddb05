//! Whatever a file says, it becomes a configuration or faults.

use oncegate::config::{Config, Faults};
use proptest::prelude::*;

use crate::example;

/// Either a configuration, or faults that all lie within the text.
fn judge(text: &str) -> Result<(), TestCaseError> {
    if let Err(Faults(faults)) = Config::parse(text, "f") {
        prop_assert!(!faults.is_empty());
        for fault in faults {
            let position = fault.position.expect("a place");
            prop_assert!(
                (1..=text.lines().count() + 1).contains(&position.line),
                "{}",
                fault
            );
            prop_assert!(!fault.to_string().contains('\n'), "{}", fault);
            let excerpt = fault.excerpt.as_deref().unwrap_or("one\ntwo");
            prop_assert_eq!(excerpt.lines().count(), 2, "{}", excerpt);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        judge(&text)?;
    }

    #[test]
    fn nothing_that_looks_like_a_configuration_makes_it_panic(
        lines in proptest::collection::vec(
            prop_oneof![
                "\\[{1,2}(routes|defaults|upstreams|upstreams\\.a|limits|store|routes\\.outcomes|admin)\\]{1,2}",
                "(name|path|scope|key|lease|mode|url|retention|release|endpoints|id_key|routes|defaults|a\\.b) = \
                 (\"[a-z:/]{0,6}\"|[0-9]{1,20}|\\[\\]|\\{\\}|\\[\\{\\}\\]|\\[\"x\", 1\\]|true|\\{ unknown = \"1s\" \\}|1979-05-27|nan)",
            ],
            0..12,
        ),
    ) {
        judge(&lines.join("\n"))?;
    }

    #[test]
    fn no_damage_to_an_example_makes_it_panic(
        from in 0..8000_usize,
        length in 0..60_usize,
        instead in "[\\[\\]{}\"=.a0\n#é]{0,4}",
    ) {
        let text = example("oncegate.toml");
        let from = text.floor_char_boundary(from);
        let to = text.ceil_char_boundary(from + length).min(text.len());
        judge(&format!("{}{instead}{}", &text[..from], &text[to..]))?;
    }
}
