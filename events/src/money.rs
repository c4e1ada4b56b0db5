//! An amount of money: whole minor units of one currency. Never a float, and no arithmetic.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Currency;

/// An amount of one currency, in its smallest unit: `{"minor_units": 1250, "currency": "EUR"}` is
/// EUR 12.50. May be negative. A number with a fraction or an exponent is refused when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Money {
    /// How many of the currency's smallest unit: cents of EUR, whole JPY, fils of KWD.
    minor_units: i64,
    /// The currency, which defines the smallest unit.
    currency: Currency,
}

impl Money {
    /// `units` of the currency's smallest unit.
    #[must_use]
    pub const fn minor(units: i64, currency: Currency) -> Self {
        Self {
            minor_units: units,
            currency,
        }
    }

    /// How many of the currency's smallest unit.
    #[must_use]
    pub const fn minor_units(self) -> i64 {
        self.minor_units
    }

    /// The currency.
    #[must_use]
    pub const fn currency(self) -> Currency {
        self.currency
    }
}

/// `EUR 12.50`, `JPY 1250`, `KWD 1.250`, `EUR -0.05`: for people, not for machines.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (currency, sign) = (self.currency, if self.minor_units < 0 { "-" } else { "" });
        let digits = usize::from(currency.exponent());
        let unit = 10_u64.pow(u32::from(currency.exponent()));
        let units = self.minor_units.unsigned_abs();
        let (major, minor) = (units / unit, units % unit);
        match digits {
            0 => write!(f, "{currency} {sign}{major}"),
            _ => write!(f, "{currency} {sign}{major}.{minor:0digits$}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(units: i64, currency: &str) -> Money {
        Money::minor(units, currency.parse().unwrap())
    }

    fn read(json: &str) -> Result<Money, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn money_is_whole_units_and_a_code() {
        let json = r#"{"minor_units":1250,"currency":"EUR"}"#;
        assert_eq!(read(json).unwrap(), money(1250, "EUR"));
        assert_eq!(serde_json::to_string(&money(1250, "EUR")).unwrap(), json);
    }

    #[test]
    fn a_number_that_is_not_whole_units_is_refused() {
        for units in [
            "12.5",
            "12.0",
            "1e3",
            "-0.0",
            "\"1250\"",
            "null",
            "9223372036854775808",
            "-9223372036854775809",
        ] {
            let json = format!(r#"{{"minor_units":{units},"currency":"EUR"}}"#);
            assert!(read(&json).is_err(), "{units}");
        }
    }

    #[test]
    fn an_amount_without_a_currency_is_refused() {
        assert!(read(r#"{"minor_units":1250}"#).is_err());
        assert!(read(r#"{"minor_units":1250,"currency":"EURO"}"#).is_err());
    }

    #[test]
    fn the_currency_says_how_many_digits_are_minor() {
        for (units, currency, text) in [
            (1250, "EUR", "EUR 12.50"),
            (5, "EUR", "EUR 0.05"),
            (-5, "EUR", "EUR -0.05"),
            (0, "USD", "USD 0.00"),
            (1250, "JPY", "JPY 1250"),
            (-1250, "JPY", "JPY -1250"),
            (1250, "KWD", "KWD 1.250"),
            (i64::MIN, "EUR", "EUR -92233720368547758.08"),
            (i64::MAX, "KWD", "KWD 9223372036854775.807"),
        ] {
            assert_eq!(money(units, currency).to_string(), text);
        }
    }
}
