package millrace

import (
	"math/big"
	"strconv"
)

func itoa(i int) string { return strconv.Itoa(i) }

// boundary returns floor(i * 2^128 / n); for i == n, which does not fit, zero.
func boundary(i, n int) Hash {
	b := new(big.Int).Lsh(big.NewInt(int64(i)), 128)
	b.Div(b, big.NewInt(int64(n)))
	if b.BitLen() > 128 {
		return Hash{}
	}
	var h Hash
	b.FillBytes(h[:])
	return h
}

// before returns h - 1 modulo 2^128.
func before(h Hash) Hash {
	for i := len(h) - 1; i >= 0; i-- {
		h[i]--
		if h[i] != 0xff {
			break
		}
	}
	return h
}
