package sse_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/millrace/millrace/source/sse"
)

func ExampleDecoder() {
	d := sse.NewDecoder(strings.NewReader("id: 7\nevent: vehicle\ndata: {\"id\":\ndata: 1}\n\n: thump\n\ndata: bye\n\n"), 1<<20)
	var e sse.Event
	for {
		err := d.Read()
		for d.Next(&e) {
			fmt.Printf("%s %s %q\n", e.ID, e.Type, e.Data)
		}
		if err != nil {
			break
		}
	}
	// Output:
	// 7 vehicle "{\"id\":\n1}"
	// 7 message "bye"
}

func ExamplePrint() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "id: 7\nevent: vehicle\ndata: {\"id\":1}\n\n")
	}))
	defer server.Close()
	var c sse.Config
	c.SetDefaults()
	c.URL = server.URL
	if err := sse.Print(context.Background(), c, sse.Options{}, sse.PrintOptions{Count: 1}, os.Stdout); err != nil {
		fmt.Println(err)
	}
	// Output:
	// {"id":"7","type":"vehicle","data":"{\"id\":1}"}
}
