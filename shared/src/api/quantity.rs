//! Resource quantities (`100m`, `1Gi`, `12e6`), with the semantics of Kubernetes'
//! `resource.Quantity`: a fixed-point number of nano precision that remembers how it was written.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

/// Nanos of one unit.
const NANO: i128 = 1_000_000_000;

/// The largest magnitude in units; what is larger is capped, as upstream documents.
const MAX_UNITS: i128 = i64::MAX as i128;

/// Digits beyond this cannot matter after capping, and bound the work on hostile text.
const MAX_TEXT: usize = 128;

/// How a quantity was written, and is printed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `12Mi`
    BinarySi,
    /// `12M`, `500m`
    DecimalSi,
    /// `12e6`
    DecimalExponent,
}

/// A quantity. Compares by value: `1Ki` equals `1024`.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is not a quantity, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantityError {
    Format,
    Numeric,
    Suffix,
}

impl fmt::Display for QuantityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QuantityError::Format => {
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            }
            QuantityError::Numeric => "unable to parse numeric part of quantity",
            QuantityError::Suffix => "unable to parse quantity's suffix",
        })
    }
}

impl std::error::Error for QuantityError {}

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// A quantity of whole units, printed as decimal.
    pub fn from_units(units: i64) -> Quantity {
        Quantity { nanos: i128::from(units) * NANO, format: Format::DecimalSi }
    }

    /// A quantity of thousandths, printed as decimal (`250m`).
    pub fn from_milli(milli: i64) -> Quantity {
        Quantity { nanos: i128::from(milli) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// A quantity of bytes, printed in powers of two where that is exact.
    pub fn from_bytes(bytes: i64) -> Quantity {
        Quantity { nanos: i128::from(bytes) * NANO, format: Format::BinarySi }
    }

    /// Reads the text form. Digits beyond a nano are rounded away from zero.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(QuantityError::Format);
        }
        let (negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(number);
        check_suffix_shape(suffix)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') {
            return Err(QuantityError::Format);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Numeric);
        }
        let (scale, format) = interpret(suffix)?;
        let nanos = magnitude(whole, fraction, scale);
        // Binary suffixes cannot print a fraction of one.
        let format = match format {
            Format::BinarySi if nanos > 0 && nanos < NANO => Format::DecimalSi,
            f => f,
        };
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// Reads a JSON value: a string, or a number as it is written.
    pub fn from_value(value: &Value) -> Result<Quantity, QuantityError> {
        match value {
            Value::String(text) => Quantity::parse(text),
            Value::Number(number) => Quantity::parse(&number.to_string()),
            Value::Null => Ok(Quantity::ZERO),
            _ => Err(QuantityError::Format),
        }
    }

    /// Whole units, rounded away from zero.
    pub fn units(self) -> i64 {
        self.scaled(NANO)
    }

    /// Thousandths of a unit, rounded away from zero and capped to what `i64` holds.
    pub fn milli(self) -> i64 {
        self.scaled(NANO / 1000)
    }

    /// Billionths of a unit, exactly.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// Rounded away from zero to thousandths: the finest that resource lists keep.
    #[must_use]
    pub fn rounded_to_milli(self) -> Quantity {
        let milli = NANO / 1000;
        let away = self.nanos / milli + (self.nanos % milli).signum();
        Quantity { nanos: away * milli, format: self.format }
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    pub fn format(self) -> Format {
        self.format
    }

    /// The sum, in the format of `self` (or of `other` when `self` is zero, as upstream does).
    #[must_use]
    pub fn plus(self, other: Quantity) -> Quantity {
        let limit = MAX_UNITS * NANO;
        Quantity {
            nanos: (self.nanos + other.nanos).clamp(-limit, limit),
            format: if self.is_zero() { other.format } else { self.format },
        }
    }

    fn scaled(self, unit: i128) -> i64 {
        let away = self.nanos / unit + (self.nanos % unit).signum();
        away.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// The canonical form: no fraction, the largest suffix that keeps it exact.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANO;
        match self.format {
            Format::BinarySi if !small && self.nanos % NANO == 0 => {
                let (mut number, mut step) = (self.nanos / NANO, 0);
                while number % 1024 == 0 && step < 6 {
                    (number, step) = (number / 1024, step + 1);
                }
                write!(f, "{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step])
            }
            format => {
                let (mut number, mut exponent) = (self.nanos, -9);
                while number % 1000 == 0 && exponent < 18 {
                    (number, exponent) = (number / 1000, exponent + 3);
                }
                match (format, exponent) {
                    (Format::DecimalExponent, 0) => write!(f, "{number}"),
                    (Format::DecimalExponent, e) => write!(f, "{number}e{e}"),
                    (_, e) => {
                        let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
                        write!(f, "{number}{}", suffix[((e + 9) / 3) as usize])
                    }
                }
            }
        }
    }
}

/// By which power a suffix multiplies.
#[derive(Clone, Copy)]
enum Scale {
    Two(u32),
    Ten(i32),
}

/// Letters, then an optional sign and digits: anything else is a malformed quantity.
fn check_suffix_shape(suffix: &str) -> Result<(), QuantityError> {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    match rest.bytes().all(|b| b.is_ascii_digit()) {
        true => Ok(()),
        false => Err(QuantityError::Format),
    }
}

fn interpret(suffix: &str) -> Result<(Scale, Format), QuantityError> {
    let decimal = |e| Ok((Scale::Ten(e), Format::DecimalSi));
    let binary = |e| Ok((Scale::Two(e), Format::BinarySi));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let digits = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
            let exponent: i32 = digits.parse().map_err(|_| QuantityError::Suffix)?;
            Ok((Scale::Ten(exponent), Format::DecimalExponent))
        }
    }
}

/// `whole.fraction` times the scale, in nanos, rounded up and capped.
fn magnitude(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let cap = MAX_UNITS * NANO;
    let digits = whole.bytes().chain(fraction.bytes());
    let digits: Vec<u8> = digits.map(|b| b - b'0').skip_while(|&d| d == 0).collect();
    if digits.is_empty() {
        return 0;
    }
    let fraction = fraction.len() as i32;
    match scale {
        Scale::Ten(exponent) => shift(&digits, exponent.saturating_sub(fraction).saturating_add(9)).min(cap),
        Scale::Two(bits) => {
            // Thirty digits after the point are a thousand times finer than a nano of an exbi.
            let nanos = binary_magnitude(&digits, fraction, bits);
            nanos.min(cap)
        }
    }
}

/// `digits` as a number times ten to the `power`, rounded up; saturates far above the cap.
fn shift(digits: &[u8], power: i32) -> i128 {
    const SATURATED: i128 = i128::MAX / 16;
    let kept = (digits.len() as i64 + i64::from(power.min(0))).max(0) as usize;
    let (head, tail) = digits.split_at(kept.min(digits.len()));
    let mut value: i128 = 0;
    let zeros = std::iter::repeat_n(0u8, power.clamp(0, 64) as usize);
    for digit in head.iter().copied().chain(zeros) {
        value = value.saturating_mul(10).saturating_add(i128::from(digit));
        if value > SATURATED {
            return SATURATED;
        }
    }
    value + i128::from(tail.iter().any(|&d| d != 0))
}

/// `digits / 10^fraction * 2^bits` in nanos, rounded up, by long multiplication so that nothing is lost.
fn binary_magnitude(digits: &[u8], fraction: i32, bits: u32) -> i128 {
    // Decimal digits, least significant first, doubled `bits` times.
    let mut number: Vec<u8> = digits.iter().rev().copied().collect();
    for _ in 0..bits {
        let mut carry = 0;
        for digit in &mut number {
            let doubled = *digit * 2 + carry;
            (*digit, carry) = (doubled % 10, doubled / 10);
        }
        if carry > 0 {
            number.push(carry);
        }
    }
    number.reverse();
    shift(&number, 9 - fraction)
}

#[cfg(test)]
mod tests;
