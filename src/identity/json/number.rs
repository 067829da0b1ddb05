//! JSON numbers by their decimal value.

use super::NotIJson;

/// Writes a number as ECMAScript writes one with these digits (ECMA-262 section 6.1.6.1.20, RFC 8785 section
/// 3.2.2.3), however many there are. One value has one text, and two values have two.
pub(super) fn write(out: &mut Vec<u8>, literal: &str) -> Result<(), NotIJson> {
    let (sign, magnitude) = match literal.strip_prefix('-') {
        Some(magnitude) => ("-", magnitude),
        None => ("", literal),
    };
    let (mantissa, exponent) = magnitude.split_once(['e', 'E']).unwrap_or((magnitude, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if mantissa.bytes().all(|byte| matches!(byte, b'0' | b'.')) {
        out.push(b'0');
        return Ok(());
    }
    out.extend_from_slice(sign.as_bytes());
    let begin = out.len();
    let point = write_digits(out, whole, fraction);
    // A body is in memory, so its length in digits fits in 64 bits with room to spare.
    let point = exponent
        .parse::<i64>()
        .ok()
        .and_then(|e| e.checked_add(point));
    place_point(out, begin, point.ok_or(NotIJson::Exponent)?)
}

/// Writes the significant digits and says how many of them stand before the decimal point; none do, and zeros follow
/// it, where that is negative.
fn write_digits(out: &mut Vec<u8>, whole: &str, fraction: &str) -> i64 {
    let begin = out.len();
    let digits = whole.bytes().chain(fraction.bytes());
    let zeros = digits.clone().take_while(|digit| *digit == b'0').count();
    out.extend(digits.skip(zeros));
    while out.len() > begin && out.ends_with(b"0") {
        out.pop();
    }
    // A body's length fits many times over.
    let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    signed(whole.len()) - signed(zeros)
}

/// Brings the digits that begin at `begin`, with the decimal point after the first `point` of them, into the form
/// that their size asks for.
fn place_point(out: &mut Vec<u8>, begin: usize, point: i64) -> Result<(), NotIJson> {
    const WHOLE_MAX: i64 = 21;
    const ZEROS_MAX: i64 = 6;
    let digits = out.len() - begin;
    match usize::try_from(point) {
        Ok(point_at) if 0 < point && point <= WHOLE_MAX && digits <= point_at => {
            out.resize(begin + point_at, b'0');
        }
        Ok(point_at) if 0 < point && point <= WHOLE_MAX => out.insert(begin + point_at, b'.'),
        _ if -ZEROS_MAX < point && point <= 0 => {
            let zeros = (point..0).map(|_| b'0');
            out.splice(begin..begin, b"0.".iter().copied().chain(zeros));
        }
        _ => {
            if digits > 1 {
                out.insert(begin + 1, b'.');
            }
            let exponent = point.checked_sub(1).ok_or(NotIJson::Exponent)?;
            out.extend_from_slice(format!("e{exponent:+}").as_bytes());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(literal: &str) -> String {
        let mut out = b"kept".to_vec();
        write(&mut out, literal).unwrap();
        String::from_utf8(out)
            .unwrap()
            .strip_prefix("kept")
            .unwrap()
            .to_owned()
    }

    /// Appendix B of RFC 8785, each double written with the digits that it needs.
    #[test]
    fn doubles_are_written_as_rfc_8785_says() {
        for (bits, expected) in [
            (0x0000000000000000, "0"),
            (0x8000000000000000, "0"),
            (0x0000000000000001, "5e-324"),
            (0x8000000000000001, "-5e-324"),
            (0x7fefffffffffffff, "1.7976931348623157e+308"),
            (0xffefffffffffffff, "-1.7976931348623157e+308"),
            (0x4340000000000000, "9007199254740992"),
            (0xc340000000000000, "-9007199254740992"),
            (0x4430000000000000, "295147905179352830000"),
            (0x44b52d02c7e14af5, "9.999999999999997e+22"),
            (0x44b52d02c7e14af6, "1e+23"),
            (0x44b52d02c7e14af7, "1.0000000000000001e+23"),
            (0x444b1ae4d6e2ef4e, "999999999999999700000"),
            (0x444b1ae4d6e2ef4f, "999999999999999900000"),
            (0x444b1ae4d6e2ef50, "1e+21"),
            (0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"),
            (0x3eb0c6f7a0b5ed8d, "0.000001"),
            (0x41b3de4355555553, "333333333.3333332"),
            (0x41b3de4355555554, "333333333.33333325"),
            (0x41b3de4355555555, "333333333.3333333"),
            (0x41b3de4355555556, "333333333.3333334"),
            (0x41b3de4355555557, "333333333.33333343"),
            (0xbecbf647612f3696, "-0.0000033333333333333333"),
        ] {
            assert_eq!(text(&format!("{:e}", f64::from_bits(bits))), expected);
        }
        // The last line of the table is a tie, which RFC 8785 rounds to even, and Rust does not.
        assert_eq!(text("1.4249539237812062e15"), "1424953923781206.2");
    }

    #[test]
    fn one_value_has_one_text() {
        for same in [
            &[
                "0",
                "-0",
                "0.0",
                "-0.000",
                "0e0",
                "0E+5",
                "-0.0e-99999999999999999999",
            ][..],
            &[
                "1", "1.0", "1e0", "1E+0", "10e-1", "0.1e1", "0.001e3", "1.000e-0",
            ],
            &["-120", "-1.2e2", "-120.0", "-1200E-1"],
            &["0.1", "1e-1", "0.10", "0.01e1", "100e-3"],
            &[
                "123456789012345678901234567890",
                "1.23456789012345678901234567890e29",
            ],
            &["1e400", "10E399", "0.1e401"],
        ] {
            for literal in same {
                assert_eq!(text(literal), text(same[0]), "{literal}");
            }
        }
    }

    #[test]
    fn numbers_that_one_double_stands_for_stay_apart() {
        for (one, other) in [
            ("9007199254740992", "9007199254740993"),
            ("9007199254740993.0", "9007199254740992.0"),
            ("12345678901234567.88", "12345678901234567.89"),
            ("0.1", "0.1000000000000000055511151231257827"),
            ("333333333.33333329", "333333333.3333333"),
            ("1e400", "1e401"),
            ("1e400", "-1e400"),
            ("1e-400", "0"),
            ("1e-400", "1e-401"),
        ] {
            assert_ne!(text(one), text(other));
        }
        assert_eq!(text("9007199254740993"), "9007199254740993");
        assert_eq!(text("1e400"), "1e+400");
    }

    #[test]
    fn exponents_are_bounded() {
        let write = |literal: &str| write(&mut Vec::new(), literal);
        assert_eq!(write("1e9223372036854775806"), Ok(()));
        assert_eq!(write("1e9223372036854775807"), Err(NotIJson::Exponent));
        assert_eq!(write("1e99999999999999999999"), Err(NotIJson::Exponent));
        assert_eq!(write("0.001e-9223372036854775807"), Err(NotIJson::Exponent));
        assert_eq!(write("1e-9223372036854775808"), Ok(()));
    }

    proptest! {
        #[test]
        fn two_doubles_have_two_texts_and_each_can_be_read_back(number in any::<f64>()) {
            prop_assume!(number.is_finite());
            for literal in [format!("{number:e}"), format!("{number}")] {
                let read: f64 = text(&literal).parse().unwrap();
                prop_assert_eq!(read, number);
            }
        }

        /// Scaled integers stand for decimals: equal integers, and only they, have equal texts.
        #[test]
        fn decimals_have_one_text_exactly_when_they_are_equal(
            a in -1_000_000_i64..1_000_000,
            b in -1_000_000_i64..1_000_000,
            scale in 0_usize..8,
        ) {
            let decimal = |n: i64| {
                let digits = format!("{:0>width$}", n.abs(), width = scale + 1);
                let (whole, fraction) = digits.split_at(digits.len() - scale);
                let point = if scale == 0 { "" } else { "." };
                format!("{}{whole}{point}{fraction}", if n < 0 { "-" } else { "" })
            };
            prop_assert_eq!(text(&decimal(a)), text(&format!("{a}e-{scale}")));
            prop_assert_eq!(a == b, text(&decimal(a)) == text(&format!("{b}e-{scale}")));
        }
    }
}
