//! Operators on numbers as ranges, with numbers of one kind compared with numbers of the other.
//!
//! Source: `api/cis-data-and-cdc.md`, A5.

use crate::condition::Range;
use crate::spec::Operator;

/// An operator on whole numbers of some width; `None` when it is none of numbers.
pub(crate) fn whole<T: Copy + PartialOrd + std::ops::Add<Output = T> + std::ops::Sub<Output = T> + From<u8>>(
    operator: Operator,
    number: T,
    min: T,
    max: T,
) -> Option<Range<T>> {
    let one = T::from(1);
    let none = Range::Between(max, min);
    Some(match operator {
        Operator::Equal => Range::Between(number, number),
        Operator::NotEqual => Range::Not(number),
        Operator::Greater if number >= max => none,
        Operator::Greater => Range::Between(number + one, max),
        Operator::GreaterOrEqual => Range::Between(number, max),
        Operator::Less if number <= min => none,
        Operator::Less => Range::Between(min, number - one),
        Operator::LessOrEqual => Range::Between(min, number),
        Operator::StartsWith | Operator::EndsWith | Operator::Contains => return None,
    })
}

pub(crate) fn long_against_long(operator: Operator, number: i64) -> Option<Range<i64>> {
    whole(operator, number, i64::MIN, i64::MAX)
}

/// Compares the numbers themselves, not the long rounded to a double.
pub(crate) fn long_against_double(operator: Operator, number: f64) -> Option<Range<i64>> {
    let (all, none) = (Range::Between(i64::MIN, i64::MAX), Range::Between(i64::MAX, i64::MIN));
    /// 2^63, the least double above all longs.
    const ABOVE: f64 = 9_223_372_036_854_775_808.0;
    if !(-ABOVE..ABOVE).contains(&number) {
        let is_above = number >= ABOVE;
        return Some(match operator {
            Operator::Equal => none,
            Operator::NotEqual => all,
            Operator::Greater | Operator::GreaterOrEqual => {
                if is_above {
                    none
                } else {
                    all
                }
            }
            Operator::Less | Operator::LessOrEqual => {
                if is_above {
                    all
                } else {
                    none
                }
            }
            Operator::StartsWith | Operator::EndsWith | Operator::Contains => return None,
        });
    }
    // In range, so the conversion is exact.
    let floor = number.floor() as i64;
    if number.fract() == 0.0 {
        return long_against_long(operator, floor);
    }
    match operator {
        Operator::Equal => Some(none),
        Operator::NotEqual => Some(all),
        Operator::Greater | Operator::GreaterOrEqual => long_against_long(Operator::Greater, floor),
        Operator::Less | Operator::LessOrEqual => long_against_long(Operator::LessOrEqual, floor),
        Operator::StartsWith | Operator::EndsWith | Operator::Contains => None,
    }
}

pub(crate) fn double_against_double(operator: Operator, number: f64) -> Option<Range<f64>> {
    let (min, max) = (f64::NEG_INFINITY, f64::INFINITY);
    Some(match operator {
        Operator::Equal => Range::Between(number, number),
        Operator::NotEqual => Range::Not(number),
        Operator::Greater => Range::Between((number + 0.0).next_up(), max),
        Operator::GreaterOrEqual => Range::Between(number, max),
        Operator::Less => Range::Between(min, (number + 0.0).next_down()),
        Operator::LessOrEqual => Range::Between(min, number),
        Operator::StartsWith | Operator::EndsWith | Operator::Contains => return None,
    })
}

/// Compares the numbers themselves, not the long rounded to a double.
pub(crate) fn double_against_long(operator: Operator, number: i64) -> Option<Range<f64>> {
    let rounded = number as f64;
    let difference = rounded as i128 - i128::from(number);
    if difference == 0 {
        return double_against_double(operator, rounded);
    }
    // No double is the number itself: those from `rounded` on are on one side of it, the others on the other.
    let (below, above) = if difference > 0 { (rounded.next_down(), rounded) } else { (rounded, rounded.next_up()) };
    Some(match operator {
        Operator::Equal => Range::Between(f64::INFINITY, f64::NEG_INFINITY),
        Operator::NotEqual => Range::Between(f64::NEG_INFINITY, f64::INFINITY),
        Operator::Greater | Operator::GreaterOrEqual => Range::Between(above, f64::INFINITY),
        Operator::Less | Operator::LessOrEqual => Range::Between(f64::NEG_INFINITY, below),
        Operator::StartsWith | Operator::EndsWith | Operator::Contains => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Ordering;

    const OPERATORS: [Operator; 6] = [
        Operator::Equal,
        Operator::NotEqual,
        Operator::Greater,
        Operator::GreaterOrEqual,
        Operator::Less,
        Operator::LessOrEqual,
    ];

    fn expected(operator: Operator, order: Ordering) -> bool {
        match operator {
            Operator::Equal => order.is_eq(),
            Operator::NotEqual => order.is_ne(),
            Operator::Greater => order.is_gt(),
            Operator::GreaterOrEqual => order.is_ge(),
            Operator::Less => order.is_lt(),
            _ => order.is_le(),
        }
    }

    /// How a long and a double compare as numbers.
    fn compare(long: i64, double: f64) -> Ordering {
        if double >= 9.3e18 {
            return Ordering::Less;
        }
        if double <= -9.3e18 {
            return Ordering::Greater;
        }
        let whole = double.floor();
        i128::from(long).cmp(&(whole as i128)).then(if double > whole { Ordering::Less } else { Ordering::Equal })
    }

    fn long() -> impl Strategy<Value = i64> {
        prop_oneof![
            any::<i64>(),
            -3i64..3,
            (0i64..9).prop_map(|n| 9_007_199_254_740_990 + n),
            (0i64..3).prop_map(|n| i64::MAX - n),
            Just(i64::MIN)
        ]
    }

    fn double() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<f64>().prop_filter("finite", |f| f.is_finite()),
            (-6i32..6).prop_map(|n| f64::from(n) / 2.0),
            Just(-0.0),
            long().prop_map(|n| n as f64),
            long().prop_map(|n| (n as f64).next_up()),
        ]
    }

    proptest! {
        #[test]
        fn numbers_compare_by_value(stored_long in long(), stored_double in double(), long in long(), double in double()) {
            for operator in OPERATORS {
                let holds = |range: Option<Range<i64>>| range.map(|r| r.holds(stored_long));
                prop_assert_eq!(holds(long_against_long(operator, long)), Some(expected(operator, stored_long.cmp(&long))));
                prop_assert_eq!(holds(long_against_double(operator, double)), Some(expected(operator, compare(stored_long, double))));
                let holds = |range: Option<Range<f64>>| range.map(|r| r.holds(stored_double));
                let order = stored_double.partial_cmp(&double).unwrap();
                prop_assert_eq!(holds(double_against_double(operator, double)), Some(expected(operator, order)));
                let order = compare(long, stored_double).reverse();
                prop_assert_eq!(holds(double_against_long(operator, long)), Some(expected(operator, order)), "{} {:?} {}", stored_double, operator, long);
            }
        }
    }
}
