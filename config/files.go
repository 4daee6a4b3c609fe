package config

import (
	"crypto/sha256"
	"io"
	"os"
	"reflect"
)

// Files returns a hash of each file that a section names, by its path: fences, certificates, whatever a
// field with the option path holds, unless it is watched: then whoever uses it reads it again by itself. Files
// that can't be read, and directories, have an empty hash. Two sections are the same if they are deeply equal and
// so are their files.
func Files(section any) map[string][sha256.Size]byte {
	files := map[string][sha256.Size]byte{}
	hashFiles(reflect.ValueOf(section), option{}, files)
	return files
}

func hashFiles(v reflect.Value, o option, files map[string][sha256.Size]byte) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			hashFiles(v.Elem(), o, files)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if name, o := tagOf(v.Type().Field(i)); name != "" || o.inline {
				hashFiles(v.Field(i), o, files)
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			hashFiles(it.Value(), o, files)
		}
	case reflect.Slice:
		for i := range v.Len() {
			hashFiles(v.Index(i), o, files)
		}
	case reflect.String:
		if path := v.String(); o.path && !o.watched && path != "" {
			files[path] = [sha256.Size]byte{}
			if sum, err := hashFile(path); err == nil {
				files[path] = sum
			}
		}
	}
}

func hashFile(path string) (sum [sha256.Size]byte, err error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() { // opening a pipe would wait
		return sum, err
	}
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}
