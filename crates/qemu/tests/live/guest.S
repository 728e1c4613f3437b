# The guest of the tests: a boot sector that writes to two disks for ever.
#
# Write n, of n = 1, 2, 3, …: x is the n-th number of x' = 69069 x + 1 (from 0), slot = x >> 19 is one of 8192 places of 4 KiB. What is
# written there is the pair (n, slot), 512 times, first to drive 0x81 and then to drive 0x82, each time waiting for it. A disk is
# therefore always the state after a number of writes, or in the middle of the next one; and the first disk is at most one ahead.
#
# In memory: n at 0x600, the number of failed writes at 0x604, x at 0x608.
	.code16
	.globl	_start
_start:
	xorl	%eax, %eax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7000, %sp
	sti
	cld
	movl	%eax, 0x600
	movl	%eax, 0x604
	movl	%eax, 0x608
next:
	incl	0x600
	imull	$69069, 0x608, %ebx
	incl	%ebx
	movl	%ebx, 0x608
	shrl	$19, %ebx
	movl	0x600, %eax
	movw	$0x9000, %di
	movw	$512, %cx
pair:
	stosl
	xchgl	%eax, %ebx
	stosl
	xchgl	%eax, %ebx
	loop	pair
	shll	$3, %ebx
	movl	%ebx, packet + 8
	movb	$0x81, %dl
	call	write
	movb	$0x82, %dl
	call	write
	jmp	next

# A failed write is counted and tried again; the firmware has then changed the count of sectors.
write:
	movw	$8, packet + 2
	movw	$packet, %si
	movb	$0x43, %ah
	movb	$0, %al
	int	$0x13
	jnc	written
	incl	0x604
	jmp	write
written:
	ret

	.balign	4
packet:
	.byte	16, 0
	.word	8
	.word	0x9000, 0
	.long	0, 0

	.org	510
	.word	0xaa55
