//! The generator matrices of the schemes, and solving for lost fragments.

use crate::field::Field;

/// Rows of coefficients.
pub(crate) type Matrix = Vec<Vec<u16>>;

fn powers(field: Field, base: u16, n: usize) -> Vec<u16> {
    let mut out = vec![1_u16; n];
    for i in 1..n {
        out[i] = field.mul(out[i - 1], base);
    }
    out
}

/// ISA-L's `gf_gen_rs_matrix`: parity row i holds the powers of 2^i. Not every choice of k fragments can be
/// solved once there are more than a few parities.
pub(crate) fn isa_l_vandermonde(k: usize, m: usize) -> Matrix {
    powers(Field::Gf8, 2, m).into_iter().map(|base| powers(Field::Gf8, base, k)).collect()
}

/// ISA-L's `gf_gen_cauchy1_matrix`: 1 / (row + column) with rows counted after the data.
pub(crate) fn isa_l_cauchy(k: usize, m: usize) -> Matrix {
    (k..k + m).map(|i| (0..k).map(|j| Field::Gf8.inv((i ^ j) as u16)).collect()).collect()
}

/// A Vandermonde matrix of powers of 2^i made systematic.
pub(crate) fn isa_l_vandermonde_inverse(k: usize, m: usize) -> Option<Matrix> {
    let rows: Matrix = powers(Field::Gf8, 2, k + m).into_iter().map(|base| powers(Field::Gf8, base, k)).collect();
    systematic(Field::Gf8, &rows, k)
}

/// liberasurecode's own: powers of 0, 1, 2 … made systematic, columns scaled so that the first parity is the
/// plain sum.
pub(crate) fn liberasurecode_vandermonde(k: usize, m: usize) -> Option<Matrix> {
    let row = |i: usize| match u16::try_from(i).ok()? {
        0 => Some((0..k).map(|j| u16::from(j == 0)).collect()),
        base => Some(powers(Field::Gf16, base, k)),
    };
    let rows: Matrix = (0..k + m).map(row).collect::<Option<_>>()?;
    let mut parity = systematic(Field::Gf16, &rows, k)?;
    let scale: Vec<u16> = parity.first()?.iter().map(|c| Field::Gf16.inv(*c)).collect();
    for row in &mut parity {
        for (c, s) in row.iter_mut().zip(&scale) {
            *c = Field::Gf16.mul(*c, *s);
        }
    }
    Some(parity)
}

/// The rows after the first k, times the inverse of the first k.
fn systematic(field: Field, rows: &Matrix, k: usize) -> Option<Matrix> {
    let top = invert(field, &rows[..k])?;
    Some(rows[k..].iter().map(|row| combine(field, row, &top)).collect())
}

/// A row vector times a matrix.
pub(crate) fn combine(field: Field, row: &[u16], matrix: &[Vec<u16>]) -> Vec<u16> {
    let n = matrix.first().map_or(0, Vec::len);
    let sum = |j: usize| row.iter().zip(matrix).fold(0, |acc, (c, r)| acc ^ field.mul(*c, r[j]));
    (0..n).map(sum).collect()
}

/// Inverse of a square matrix by elimination; `None` when it has none.
pub(crate) fn invert(field: Field, matrix: &[Vec<u16>]) -> Option<Matrix> {
    let n = matrix.len();
    let unit = |i: usize| (0..n).map(move |j| u16::from(i == j));
    let mut work: Matrix = matrix.iter().enumerate().map(|(i, row)| row.iter().copied().chain(unit(i)).collect()).collect();
    for column in 0..n {
        let pivot = (column..n).find(|r| work[*r][column] != 0)?;
        work.swap(column, pivot);
        let scale = field.inv(work[column][column]);
        for v in &mut work[column] {
            *v = field.mul(*v, scale);
        }
        let row = work[column].clone();
        for (i, other) in work.iter_mut().enumerate() {
            let factor = other[column];
            if i != column && factor != 0 {
                for (v, p) in other.iter_mut().zip(&row) {
                    *v ^= field.mul(factor, *p);
                }
            }
        }
    }
    Some(work.into_iter().map(|row| row[n..].to_vec()).collect())
}

/// Indexes of the first rows that are independent of those chosen before, k at most.
pub(crate) fn independent(field: Field, rows: &[Vec<u16>], k: usize) -> Vec<usize> {
    let (mut reduced, mut chosen): (Matrix, Vec<usize>) = (Vec::new(), Vec::new());
    for (i, row) in rows.iter().enumerate() {
        if chosen.len() == k {
            break;
        }
        let mut row = row.clone();
        for other in &reduced {
            let lead = other.iter().position(|v| *v != 0).unwrap_or(0);
            let factor = row[lead];
            if factor != 0 {
                for (v, o) in row.iter_mut().zip(other) {
                    *v ^= field.mul(factor, *o);
                }
            }
        }
        let Some(lead) = row.iter().position(|v| *v != 0) else { continue };
        let scale = field.inv(row[lead]);
        reduced.push(row.into_iter().map(|v| field.mul(v, scale)).collect());
        chosen.push(i);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Matrices that the libraries use, read off their encodings of unit vectors.
    #[test]
    fn the_libraries_matrices() {
        assert_eq!(isa_l_vandermonde(4, 3), vec![vec![1, 1, 1, 1], vec![1, 2, 4, 8], vec![1, 4, 16, 64]]);
        assert_eq!(isa_l_cauchy(3, 2), vec![vec![244, 142, 1], vec![71, 167, 122]]);
        let inverse = isa_l_vandermonde_inverse(4, 3).unwrap();
        assert_eq!(inverse, vec![vec![64, 120, 54, 15], vec![231, 210, 87, 99], vec![229, 191, 7, 92]]);
        assert_eq!(liberasurecode_vandermonde(3, 2).unwrap(), vec![vec![1, 1, 1], vec![15, 8, 6]]);
        let four = liberasurecode_vandermonde(4, 3).unwrap();
        assert_eq!(four, vec![vec![1, 1, 1, 1], vec![20_483, 52_230, 27_503, 30_722], vec![61_447, 55_005, 34_820, 40_965]]);
    }
}
