package disk_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/objectstore/disk"
)

func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	store, err := disk.Open(dir)
	if err != nil {
		panic(err)
	}
	defer store.Close()

	ctx := context.Background()
	put := func(text string) error {
		return store.Put(ctx, "2026/01/hello.txt", func() (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(text)), nil
		}, millrace.PutOptions{})
	}
	fmt.Println(put("hello"))
	fmt.Println(errors.Is(put("something else"), millrace.ErrExists))
	for object, err := range store.List(ctx, "2026/", "") {
		fmt.Println(object.Key, object.Size, err)
	}
	// Output:
	// <nil>
	// true
	// 2026/01/hello.txt 5 <nil>
}
